"""A client of `python-socketio`, version 4 or 5: `python_client.py URL TOKEN TRANSPORT...`.

It subscribes to `grid.*` whenever it is connected, asks for its status many times at once, and prints what it hears as lines
of JSON: the name of an event and its argument.
"""

import json
import sys
import threading

import socketio

url, token, *transports = sys.argv[1:]
has_auth = "auth" in socketio.Client.connect.__code__.co_varnames
client = socketio.Client()
printing = threading.Lock()


# The library calls each handler in a thread of its own.
def tell(name, argument):
    with printing:
        print(json.dumps([name, argument]), flush=True)


def hear(name):
    # With connection state recovery, an event has an offset as its second argument.
    client.on(name, lambda argument, *offset: tell(name, [argument, *offset] if offset else argument))


for event in ["subscribed", "update", "many", "error", "grid_connect", "grid___disconnect_final"]:
    hear(event)
client.on("connect_error", lambda *reason: tell("refused", reason))


@client.on("connected")
def connected(argument):
    tell("connected", argument)
    client.emit("subscribe", {"channels": ["grid.*"]})
    for _ in range(40):
        client.emit("get_status", {}, callback=lambda answer: tell("answer", answer))


options = {"transports": transports} if transports else {}
try:
    if has_auth:
        client.connect(url, auth={"token": token}, **options)
    else:
        client.connect(f"{url}?token={token}", **options)
except socketio.exceptions.ConnectionError as error:
    # The first connection was refused. The library goes on in the background.
    tell("refused", str(error))
client.wait()
sys.stdin.read()
