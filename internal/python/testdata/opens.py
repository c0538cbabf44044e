"""Opens files in many ways and says, by its own frames, where it did."""

import asyncio
import functools
import os
import sys
import threading

lock = threading.Lock()
# It lives on: of code that is gone when it is looked at, nothing can be said.
generated = compile("\n\ntell(os.open('/dev/null', os.O_RDONLY), sys._getframe())", "generated.py", "exec")


def place(frame):
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name}:{os.path.basename(code.co_filename)}:{frame.f_lineno}"


def tell(fd, frame):
    frames = []
    while frame is not None:
        frames.append(place(frame))
        frame = frame.f_back
    with lock:
        print(fd, *frames, flush=True)


def plain():
    tell(os.open("/dev/null", os.O_RDONLY), sys._getframe())


def deep(n):
    if n == 0:
        return plain()
    return (
        deep(n - 1)
    )


class Größe:
    def method(self):
        tell(os.open("/dev/null", os.O_RDONLY), sys._getframe())

    @functools.cached_property
    def lazy(self):
        return [tell(os.open("/dev/null", os.O_RDONLY), sys._getframe()) for _ in range(2)]

    def __del__(self):
        tell(os.open("/dev/null", os.O_RDONLY), sys._getframe())


def generator():
    yield tell(os.open("/dev/null", os.O_RDONLY), sys._getframe())


async def coroutine():
    await asyncio.sleep(0)
    tell(os.open("/dev/null", os.O_RDONLY), sys._getframe())


def 函数(key):
    tell(os.open("/dev/null", os.O_RDONLY), sys._getframe())
    return key


def main():
    print("ready", flush=True)
    sys.stdin.readline()
    plain()
    deep(5)
    thing = Größe()
    thing.method()
    thing.lazy
    del thing
    list(generator())
    sorted([1], key=函数)
    (lambda: tell(os.open("/dev/null", os.O_RDONLY), sys._getframe()))()
    threads = [threading.Thread(target=deep, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
        t.join()
    asyncio.run(coroutine())
    exec(generated)
    print("done", flush=True)
    sys.stdin.readline()


main()
