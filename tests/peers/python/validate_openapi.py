"""Judges an OpenAPI 3.1 document with PyPI `openapi-spec-validator`, which nobody of this project wrote.

The document comes from a gateway's Unix socket or from a file. One line on standard output for each defect, and exit
status 1 if there are any; otherwise one JSON object that says what was judged.
"""

import argparse
import http.client
import json
import socket
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

PATH = "/v1/openapi.json"
ANSWER_SECONDS = 30
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def served(path):
    """The document the gateway serves."""
    connection = UnixConnection(path)
    connection.request("GET", PATH)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        sys.exit(f"GET {PATH} was answered {answer.status}: {body[:200]!r}")
    return json.loads(body)


def main():
    parser = argparse.ArgumentParser()
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--socket")
    place.add_argument("--file")
    arguments = parser.parse_args()
    if arguments.socket:
        document = served(arguments.socket)
    else:
        with open(arguments.file, encoding="utf-8") as file:
            document = json.load(file)
    defects = 0
    for error in OpenAPIV31SpecValidator(document).iter_errors():
        print(f"{'/'.join(map(str, error.absolute_path))}: {error.message}")
        defects += 1
    if defects:
        sys.exit(1)
    operations = sum(method in item for item in document["paths"].values() for method in METHODS)
    print(json.dumps({"openapi": document["openapi"], "operations": operations}))


if __name__ == "__main__":
    main()
