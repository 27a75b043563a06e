// The state of each service.
import { Code, ConnectError } from "@connectrpc/connect";
import { Badge, Card } from "../../components/layout";
import { StateBadge } from "../../components/model-state";
import { type Column, Table } from "../../components/table";
import { useStatuses } from "../../data/model-status";
import { enumLabel, dateTime } from "../../format";

/**
 * Whether an error means that the gateway has no such service, rather than that the service failed.
 */
const isNotOffered = (error: unknown) =>
  [Code.Unimplemented, Code.InvalidArgument, Code.NotFound].includes(ConnectError.from(error).code);

type Row = ReturnType<typeof useStatuses>[number];

const SERVICE_COLUMNS: Column<Row>[] = [
  { header: "Service", value: (r) => r.model, render: (r) => enumLabel(r.model) },
  {
    header: "State",
    value: (r) => (r.query.error ? "no answer" : r.query.data ? "answers" : ""),
    render: ({ query }) =>
      query.error ? (
        <Badge tone={isNotOffered(query.error) ? "plain" : "bad"}>
          {isNotOffered(query.error) ? "Not offered" : "No answer"}
        </Badge>
      ) : query.data?.status ? (
        <StateBadge status={query.data.status} />
      ) : (
        "…"
      ),
  },
  { header: "Version", value: (r) => r.query.data?.status?.version },
  {
    header: "Served since",
    value: (r) => Number(r.query.data?.status?.loadedAt?.seconds ?? 0n),
    render: (r) => dateTime(r.query.data?.status?.loadedAt),
  },
  {
    header: "Problem",
    value: (r) =>
      r.query.data?.status?.refusal ||
      (r.query.error && !isNotOffered(r.query.error)
        ? ConnectError.from(r.query.error).rawMessage
        : ""),
    wide: true,
  },
];

export function Services() {
  return (
    <Card title="Services">
      <Table label="Services" rows={useStatuses()} columns={SERVICE_COLUMNS} />
    </Card>
  );
}
