"""What `forked.standing_in` writes a script for: ask for a process, be what it is to others.

It has the standard streams, the folder and the environment of this one; signals are passed on to
it, and this one ends as it ends. Imports next to nothing, for that is its purpose.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

address, *words = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as server:
    server.connect(address)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda given, _: server.sendall(bytes([given])))
    asked = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    status = int(server.recv(16) or 1)
if status < 0:
    with suppress(OSError):  # SIGKILL has no handler
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
