#!/usr/bin/python3
"""Leaks ten descriptors a second in one function, among twenty that open and close
properly: from the first line of its input on, until the next, when it says how many
it leaked. It ends with its input."""

import os
import select

# Extension modules: they are mapped where one who looks for a shared interpreter comes
# by first.
import _asyncio, _bz2, _contextvars, _ctypes, _decimal, _hashlib, _json, _lzma, _queue, mmap, resource, termios

leaked = []


def honest(n):
    with open("/etc/passwd") if n % 2 else os.fdopen(os.eventfd(0), "rb"):
        pass


class Uploader:
    def leak_descriptor(self):
        leaked.append(
            open("/etc/hostname")  # LEAK file
        )


def work(leaking):
    for n in range(13):
        honest(n)
    if leaking:
        list(map(lambda u: u.leak_descriptor(), [Uploader()]))
    for n in range(13, 20):
        honest(n)


def main():
    leaking = False
    print("ready", flush=True)
    while True:
        if not select.select([0], [], [], 0.1)[0]:
            work(leaking)
            continue
        if not os.read(0, 16):
            return
        if leaking:
            print(len(leaked), flush=True)
        leaking = not leaking


main()
