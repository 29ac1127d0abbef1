"""A network that a test's guests can reach: a namespace with addresses and a server in it, linked to the host."""

import contextlib
import subprocess


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def remove(namespace):
    subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


@contextlib.contextmanager
def outside(namespace, link, gateway, addresses, prefix, server):
    """The host is `gateway` there; `server` is a program of Python. Whatever a test before left is removed first."""
    remove(namespace)
    ip("netns", "add", namespace)
    process = None
    try:
        ip("link", "add", f"{link}0", "type", "veth", "peer", "name", f"{link}1", "netns", namespace)
        ip("addr", "add", f"{gateway}/{prefix}", "dev", f"{link}0")
        ip("link", "set", f"{link}0", "up")
        for address in addresses:
            ip("-n", namespace, "addr", "add", f"{address}/{prefix}", "dev", f"{link}1")
        ip("-n", namespace, "link", "set", f"{link}1", "up")
        command = ["ip", "netns", "exec", namespace, "python3", "-c", server]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        yield
    finally:
        if process:
            process.kill()
        remove(namespace)
