"""Asks over gRPC and over JSON, and writes answers in one comparable form.

An answer is its code, its messages and what matters of its headers. Times of loading are left out, and so is the text of errors:
it is for people and may change; it is gathered apart, see `Wording`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".tools/python"), str(ROOT / "tests/python")]

import grpc  # noqa: E402
from client import Api  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from google.protobuf.message_factory import GetMessageClass  # noqa: E402
from google.rpc import error_details_pb2  # noqa: E402, F401  (registers the types of details)
from grpc_status import rpc_status  # noqa: E402

from questions import HTTP, INFERENCE, MODEL, Question  # noqa: E402

# A loaded machine refuses honestly; such a refusal is asked again.
PASSING = {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
ATTEMPTS = 8
WATCH = "ModelService/WatchModel"
EXPORT = "InsightsService/ExportTransactions"
TEXT = "TEXT"


class Wording:
    """The texts of errors, each once, without the values in backticks."""

    def __init__(self):
        self.lines = set()

    def add(self, text: str) -> str:
        if text:
            said = re.sub(r"`[^`]*`", "`...`", text).replace("\n", "\\n")
            self.lines.add(re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", said)[:300])
        return TEXT


def short(method: str) -> str:
    """`ChurnService/GetChurnRisk`"""
    return method.rpartition(".")[2]


class OverGrpc:
    """Asks a server by reflection."""

    name = "grpc"

    def __init__(self, address: str, wording: Wording):
        self.api, self.wording = Api(address), wording

    def has(self, question: Question) -> bool:
        return True

    def ask(self, question: Question, token: str | None) -> dict:
        fields = with_token(question.fields, token)
        requests = fields if isinstance(fields, list) else [fields]
        messages = [self.api.request(question.method, request) for request in requests]
        return self.asked(question.method, messages)

    def asked(self, method: str, messages: list) -> dict:
        described = self.api.method(method)
        answer = GetMessageClass(described.output_type)
        kinds = (described.client_streaming, described.server_streaming)
        open_call = {
            (False, False): self.api.channel.unary_unary,
            (False, True): self.api.channel.unary_stream,
            (True, True): self.api.channel.stream_stream,
        }[kinds]
        stub = open_call(f"/{method}", lambda request: request.SerializeToString(), answer.FromString)
        argument = iter(messages) if described.client_streaming else messages[0]
        received, refused, headers = [], None, []
        try:
            if described.server_streaming:
                call = stub(argument, timeout=20)
                for message in call:
                    received.append(message)
                    if method.endswith(WATCH):
                        call.cancel()
                        break
                headers = call.initial_metadata()
            else:
                message, call = stub.with_call(argument, timeout=20)
                received, headers = [message], call.initial_metadata()
        except grpc.RpcError as error:
            refused, headers = error, error.initial_metadata() or []
        told = {"code": refused.code().name if refused else "OK"}
        version = dict(headers).get("x-model-version")
        if version:
            told["x-model-version"] = version
        parsed = [json_format.MessageToDict(message, preserving_proto_field_name=True) for message in received]
        told["messages"] = pieces_joined(method, parsed, "total_rows")
        if refused:
            self.wording.add(refused.details())
            told["details"] = self.details(refused)
        return cleaned(told, self.wording)

    def details(self, refused: grpc.RpcError) -> list:
        status = rpc_status.from_call(refused)
        return [json_format.MessageToDict(detail) for detail in (status.details if status else [])]

    def raw(self, path: str, body: bytes) -> dict:
        """Sends bytes that need not be a message, to a path that need not be a method."""
        stub = self.api.channel.unary_unary(path)
        try:
            return {"code": "OK", "bytes": len(stub(body, timeout=20))}
        except grpc.RpcError as error:
            self.wording.add(error.details())
            return cleaned({"code": error.code().name, "details": self.details(error)}, self.wording)


class OverJson:
    """Asks a server by its OpenAPI document."""

    name = "json"

    def __init__(self, address: str, wording: Wording):
        self.address, self.wording = address, wording
        document = json.load(urllib.request.urlopen(f"http://{address}/openapi.json", timeout=20))
        self.operations = {
            operation["operationId"]: (path, verb.upper(), operation)
            for path, verbs in document["paths"].items()
            for verb, operation in verbs.items()
        }

    def has(self, question: Question) -> bool:
        """Whether the question has a form over HTTP: the protocol of inference and health have none."""
        found = self.operations.get(short(question.method).replace("/", "_"))
        if not found:
            return False
        needed = re.findall(r"\{(\w+)\}", found[0])
        return all(question.fields.get(name) for name in needed)

    def ask(self, question: Question, token: str | None) -> dict:
        path, verb, operation = self.operations[short(question.method).replace("/", "_")]
        fields = with_token(question.fields, token)
        query, body = [], None
        if isinstance(fields, list):
            body = "".join(json.dumps(line) + "\n" for line in fields)
        elif "requestBody" in operation:
            body = json.dumps(fields)
        for name in re.findall(r"\{(\w+)\}", path):
            path = path.replace("{" + name + "}", urllib.parse.quote(fields[name], safe=""))
        for parameter in operation.get("parameters", []) if body is None else []:
            name = parameter["name"]
            if parameter["in"] == "query" and name in fields:
                values = fields[name] if isinstance(fields[name], list) else [fields[name]]
                query += [(name, str(value).lower() if isinstance(value, bool) else value) for value in values]
        target = path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        return self.asked(question.method, verb, target, body)

    def asked(self, method: str, verb: str, target: str, body: str | None) -> dict:
        data = body.encode() if body is not None else None
        request = urllib.request.Request(f"http://{self.address}{target}", data, method=verb)
        try:
            response = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            kind = response.headers.get("content-type", "")
            content = response.readline() if method.endswith(WATCH) else response.read()
        told = {"code": response.status, "content-type": kind}
        if version := response.headers.get("x-model-version"):
            told["x-model-version"] = version
        if "json" in kind:
            lines = content.decode().splitlines() if "ndjson" in kind else [content.decode()]
            parsed = [json.loads(line, parse_float=lambda written: f"~{written}") for line in lines]
            if method.endswith(EXPORT) and "ndjson" in kind:
                parsed = pieces_joined(method, [line.get("result", line) for line in parsed], "totalRows")
            told["messages"] = parsed
        else:
            told |= file_like(content)
        return cleaned(told, self.wording)


def with_token(fields, token: str | None):
    return {**fields, "pageToken": token} if token else fields


def file_like(content: bytes) -> dict:
    """Bytes as a hash, with the text itself where it is short."""
    told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()[:32]}
    if len(content) <= 600 and content.isascii():
        told["text"] = content.decode()
    return told


def pieces_joined(method: str, messages: list, total: str) -> list:
    """The pieces of an export as one file: where one piece ends is a matter of time."""
    if not method.endswith(EXPORT) or not all("data" in m or total in m or "model" in m for m in messages) or not messages:
        return messages
    data = b"".join(base64.b64decode(message.get("data", "")) for message in messages)
    last = messages[-1]
    return [{"rows": last.get("rows"), total: last.get(total), "model": last.get("model"), **file_like(data)}]


def cleaned(value, wording: Wording):
    """Without times of loading and without the text of errors, which goes to the wording."""
    if isinstance(value, list):
        return [cleaned(inner, wording) for inner in value]
    if not isinstance(value, dict):
        return value
    told = {}
    for name, inner in value.items():
        if name in ("loadedAt", "loaded_at"):
            inner = "TIME"
        elif name == "retryDelay":
            inner = "DELAY"
        elif name == "requestId":
            inner = "REQUEST"
        elif name == "message" and "code" in value and isinstance(inner, str):
            inner = wording.add(inner)
        elif name == "description" and ("field" in value or "subject" in value or "resourceType" in value):
            inner = wording.add(inner)
        else:
            inner = cleaned(inner, wording)
        told[name] = inner
    return told


def asked_well(ask, *arguments) -> dict:
    """Asks again while the answer says that the machine is too busy."""
    for attempt in range(ATTEMPTS):
        answer = ask(*arguments)
        text = json.dumps(answer)
        busy = answer["code"] in PASSING or answer["code"] in (503, 504) or "OVERLOADED" in text
        if not busy:
            break
        time.sleep(0.1 * 2**attempt if attempt < 4 else 1.5)
    return answer


def next_token(answer: dict) -> str:
    messages = answer.get("messages") or [{}]
    first = messages[0] if isinstance(messages[0], dict) else {}
    return first.get("next_page_token") or first.get("nextPageToken") or ""


def answers_of(questions, ways: list, suffix: str = "") -> dict[str, dict]:
    """Every answer by its question, over each way that has the question's method."""
    answers = {}
    for question in questions:
        for way in ways:
            if way.has(question):
                for page, answer in enumerate(pages(way, question), 1):
                    answers[key_of(way, question, page) + suffix] = answer
    return answers


def pages(way, question: Question):
    token = ""
    for _ in range(question.pages):
        answer = asked_well(way.ask, question, token)
        yield answer
        token = next_token(answer)
        if not token:
            break


def key_of(way, question: Question, page: int) -> str:
    asked = json.dumps(question.fields, separators=(",", ":"))
    if len(asked) > 400:
        asked = f"{asked[:300]}... sha256 {hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    return f"{way.name} {short(question.method)} {asked}" + (f" page {page}" if page > 1 else "")


def beside_the_methods(over_grpc: OverGrpc, over_json: OverJson) -> dict[str, dict]:
    """Answers to requests that are no method's: paths, bodies and bytes that cannot be used."""
    answers = {}
    for verb, target, body in HTTP:
        key = f"json {verb} {target} {body if body is not None else ''}".strip()
        answers[key] = asked_well(over_json.asked, "HTTP", verb, target, body)
    for path, body in raw_calls(over_grpc.api):
        answers[f"grpc bytes {path} {body.hex()}"] = asked_well(over_grpc.raw, path, body)
    return answers


def publish(way, kind: str, version: str, expected: str) -> dict:
    """Makes a version current and waits until it answers."""
    fields = {"model": kind, "version": version, "expectedVersion": expected}
    answer = way.ask(Question(MODEL + "SetCurrentVersion", fields), None)
    deadline = time.monotonic() + 60
    while way.api.ask(MODEL + "GetModelStatus", {"model": kind}).status.version != version:
        if time.monotonic() > deadline:
            raise SystemExit(f"{kind} {version} does not answer after 60 s: {answer}")
        time.sleep(0.05)
    return answer


def raw_calls(api: Api):
    """Bytes that are no message, to every method; and paths that are no method."""
    for service in api.services():
        if not service.startswith("grpc."):
            for name, method in sorted(api.pool.FindServiceByName(service).methods_by_name.items()):
                if not method.client_streaming and not method.server_streaming:
                    yield f"/{service}/{name}", b"\xff\xff"
    for path in ("/no.such.Service/Method", "/shopkeeper.churn.v1.ChurnService/NoSuchMethod", "/" + INFERENCE + "RepositoryModelLoad"):
        yield path, b""


def api_listing(address: str) -> list[str]:
    """Every method, message field and enum value of the API, with its number, type and options."""
    api = Api(address)
    files, lines = {}, []
    for service in api.services():
        described = api.pool.FindServiceByName(service)
        gather(described.file, files)
        for name, method in described.methods_by_name.items():
            stream = lambda on: "stream " if on else ""
            options = method.GetOptions().SerializeToString().hex()
            lines.append(
                f"rpc {service}/{name} ({stream(method.client_streaming)}{method.input_type.full_name}) returns "
                f"({stream(method.server_streaming)}{method.output_type.full_name}) options {options}"
            )
    for file in files.values():
        for message in file.message_types_by_name.values():
            lines += message_lines(message)
        for enum in file.enum_types_by_name.values():
            lines += [f"enum {enum.full_name} {value.name} = {value.number}" for value in enum.values]
    return sorted(lines)


def gather(file, files: dict):
    if file.name.startswith(("google/", "grpc/")) or file.package.startswith("grpc."):
        return
    if file.name not in files:
        files[file.name] = file
        for needed in file.dependencies:
            gather(needed, files)


def message_lines(message):
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else field.enum_type.full_name if field.enum_type else field.type
        label = "repeated" if field.is_repeated else "optional" if field.has_presence else "single"
        yield f"field {message.full_name}.{field.name} = {field.number} {label} {kind}"
    for nested in message.nested_types:
        yield from message_lines(nested)
