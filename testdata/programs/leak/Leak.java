import java.io.FileInputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/** Leaks ten descriptors a second in one method, among twenty that open and close
 *  properly: from the first line of its input on, until the next, when it says how many
 *  it leaked. It ends with its input. */
public class Leak {
    private static final List<Object> kept = new ArrayList<>();
    private static volatile boolean leaking;

    private static void leakDescriptor() throws IOException {
        kept.add(new FileInputStream("/etc/hostname")); // LEAK file
    }

    private static void honest() throws IOException {
        try (FileInputStream in = new FileInputStream("/etc/passwd")) {
            in.read();
        }
    }

    private static void work() throws IOException {
        for (int n = 0; n < 20; n++) {
            honest();
        }
        if (leaking) {
            leakDescriptor();
        }
    }

    public static void main(String[] args) throws Exception {
        Thread reader = new Thread(() -> {
            try {
                int c;
                while ((c = System.in.read()) >= 0) {
                    if (c != '\n') {
                        continue;
                    }
                    boolean before = leaking;
                    leaking = !before;
                    if (before) {
                        Thread.sleep(200); // what began comes to its end
                        System.out.println(kept.size());
                    }
                }
            } catch (IOException | InterruptedException e) {
                e.printStackTrace();
            }
            System.exit(0);
        });
        reader.setDaemon(true);
        reader.start();
        System.out.println("ready");
        for (;;) {
            work();
            Thread.sleep(100);
        }
    }
}
