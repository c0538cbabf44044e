use std::collections::BTreeMap;
use std::fs::File;

mod inner {
    pub trait Shape {
        fn area(&self) -> f64;
    }
    pub struct Square(pub f64);
    impl Shape for Square {
        fn area(&self) -> f64 {
            self.0 * self.0
        }
    }
    #[inline(always)]
    pub fn total<T: Shape + ?Sized>(list: &[Box<T>]) -> f64 {
        list.iter().map(|s| s.area()).sum()
    }
}

#[inline(never)]
fn open_all(list: &[String]) -> Vec<File> {
    list.iter().filter_map(|p| File::open(p).ok()).collect()
}

fn main() {
    let list: Vec<String> = std::env::args().skip(1).collect();
    let files = open_all(&list);
    let shapes: Vec<Box<dyn inner::Shape>> = vec![Box::new(inner::Square(2.0))];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &list {
        *counts.entry(name).or_default() += 1;
    }
    println!("{} {} {:?}", files.len(), inner::total(&shapes), counts);
}
