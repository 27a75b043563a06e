"""An OpenTelemetry collector (OTLP over gRPC) that writes the spans it receives to a file.

    python collector.py HOST:PORT FILE

Writes each span to FILE when it arrives, as one JSON object per line: trace_id, span_id, parent_id, name, kind, service, attributes.
"""

from __future__ import annotations

import json
import sys
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def plain(attributes) -> dict:
    return {a.key: getattr(a.value, a.value.WhichOneof("value") or "string_value") for a in attributes}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, file):
        self.file = file

    def Export(self, request, context):
        for resource in request.resource_spans:
            service = plain(resource.resource.attributes).get("service.name")
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                line = {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind),
                    "service": service,
                    "attributes": plain(span.attributes),
                }
                print(json.dumps(line), file=self.file, flush=True)
        return otlp.ExportTraceServiceResponse()


address, path = sys.argv[1:]
server = grpc.server(futures.ThreadPoolExecutor(2))
with open(path, "w", encoding="utf-8") as out:
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(out), server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()
