"""Makes a Unix socket a TCP port of this (the test's own) network namespace, for clients that know only such: forward.py PORT PATH"""

import socket
import sys
import threading


def copy(source, to):
    try:
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client, path):
    # Half of a connection that ends leaves the other to say what it has to say.
    with client, socket.socket(socket.AF_UNIX) as switch:
        switch.connect(path)
        back = threading.Thread(target=copy, args=(switch, client))
        back.start()
        threading.Thread(target=copy, args=(client, switch), daemon=True).start()
        back.join()


def main():
    port, path = int(sys.argv[1]), sys.argv[2]
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, path), daemon=True).start()


main()
