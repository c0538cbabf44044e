// Opens a path by a known chain of functions.
use std::env;

// Keeps the compiler from knowing a value.
fn black_box<T: Copy>(v: T) -> T { unsafe { std::ptr::read_volatile(&v) } }

#[no_mangle]
#[inline(never)]
fn open_here(path: &str) -> usize { let f = std::fs::File::open(path); black_box(f.is_ok() as usize) + 1 }
#[no_mangle]
#[inline(never)]
fn middle(path: &str) -> usize { let b = [1u8; 77]; black_box(&b[0]); open_here(path) + black_box(b[3] as usize) }
#[no_mangle]
#[inline(never)]
fn outer(path: &str) -> usize { middle(path) + black_box(1) }

struct Dropped(String);
impl Drop for Dropped { fn drop(&mut self) { black_box(outer(&self.0)); } }

fn main() {
    let args: Vec<String> = env::args().collect();
    let path = args[2].clone();
    match args[1].as_str() {
        "direct" => { black_box(outer(&path)); }
        "thread" => { std::thread::spawn(move || black_box(outer(&path))).join().unwrap(); }
        "closure" => { let v: Vec<usize> = (0..1).map(|n| outer(&path) + n).collect(); black_box(v.len()); }
        "panic" => { let _ = std::panic::catch_unwind(|| { let _d = Dropped(path.clone()); panic!("thrown") }); }
        _ => {}
    }
}
