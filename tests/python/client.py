"""A gRPC client that reads the API from the server by reflection, for the demo and the end-to-end tests.

    python client.py HOST:PORT PACKAGE.SERVICE/METHOD [JSON] [-H 'name: value']...

Prints the answer as JSON, one line per message of a stream; -v prints response headers to stderr. For an error, prints its
code, message and details to stderr and exits 1. `-` reads request messages from standard input, one per line.
"""

from __future__ import annotations

import argparse
import json
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (registers the error details' types)
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status


class Api:
    """The methods of a server, by full name."""

    def __init__(self, address: str):
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.reflection)

    def services(self) -> list[str]:
        return sorted(self.reflection.get_services())

    def method(self, name: str):
        service, _, method = name.strip("/").partition("/")
        return self.pool.FindServiceByName(service).methods_by_name[method]

    def request(self, name: str, fields: dict):
        """A request message from its JSON form."""
        return json_format.ParseDict(fields, GetMessageClass(self.method(name).input_type)())

    def call(self, name: str, *requests, timeout: float = 10, headers=()):
        """(answers, response headers). Requests are messages, JSON forms or raw bytes; an error raises grpc.RpcError."""
        method = self.method(name)
        answer = GetMessageClass(method.output_type)
        encode = lambda r: r if isinstance(r, bytes) else (self.request(name, r) if isinstance(r, dict) else r).SerializeToString()
        path = "/" + name.strip("/")
        kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
        stub = getattr(self.channel, kind)(path, request_serializer=encode, response_deserializer=answer.FromString)
        argument = iter(requests) if method.client_streaming else requests[0]
        if method.server_streaming:
            call = stub(argument, timeout=timeout, metadata=list(headers))
            answers = list(call)
        elif method.client_streaming:
            got, call = stub.with_call(argument, timeout=timeout, metadata=list(headers))
            answers = [got]
        else:
            got, call = stub.with_call(argument, timeout=timeout, metadata=list(headers))
            answers = [got]
        return answers, dict(call.initial_metadata())

    def ask(self, name: str, fields: dict | None = None, **kwargs):
        """The answer of a unary method."""
        return self.call(name, fields or {}, **kwargs)[0][0]

    def watch(self, name: str, fields: dict, timeout: float | None = None):
        """The answers of a server stream, as they arrive; cancel() ends it."""
        method = self.method(name)
        answer = GetMessageClass(method.output_type)
        stub = self.channel.unary_stream(
            "/" + name, request_serializer=lambda r: r.SerializeToString(), response_deserializer=answer.FromString
        )
        return stub(self.request(name, fields), timeout=timeout)


def as_json(message) -> dict:
    return json_format.MessageToDict(message)


def details(error: grpc.RpcError) -> list:
    """The unpacked details of an error."""
    status = rpc_status.from_call(error)
    unpacked = []
    for packed in status.details if status else []:
        kind = packed.type_url.rsplit(".", 1)[-1]
        detail = getattr(error_details_pb2, kind)()
        packed.Unpack(detail)
        unpacked.append(detail)
    return unpacked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("method", nargs="?", help="default: list the services")
    parser.add_argument("request", nargs="?", default="{}")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("-t", "--timeout", type=float, default=10, metavar="SECONDS")
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()

    try:
        api = Api(args.address)
        if not args.method:
            print("\n".join(api.services()))
            return 0
        lines = sys.stdin if args.request == "-" else [args.request]
        requests = [json.loads(line) for line in lines if line.strip()]
        headers = [tuple(part.strip() for part in header.split(":", 1)) for header in args.header]
        answers, got = api.call(args.method, *requests, timeout=args.timeout, headers=headers)
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        for detail in details(error):
            print(f"  {type(detail).__name__}: {json.dumps(as_json(detail))}", file=sys.stderr)
        return 1
    except KeyError:
        print(f"{args.address} has no method {args.method}", file=sys.stderr)
        return 1
    if args.verbose:
        for name, value in sorted(got.items()):
            print(f"{name}: {value}", file=sys.stderr)
    for answer in answers:
        print(json.dumps(as_json(answer), indent=2 if len(answers) == 1 else None, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
