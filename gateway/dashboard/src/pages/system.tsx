// How the gateway and its services are doing.
import { Code, ConnectError } from "@connectrpc/connect";
import { axis, Chart, tooltip } from "../chart";
import { count, enumWord, milliseconds, moment, percent } from "../format";
import { Answer, Badge, Card, Empty, Figure, Loading, Page, Problem } from "../parts";
import { quantile, sumBy, useMetrics, type Sample } from "../prometheus";
import { Table, type Column } from "../table";
import { StateBadge, useStatuses } from "./models";

export default function System() {
  return (
    <Page
      title="System"
      lead="Whether every service answers, how fast, how often the cache helps, and what goes wrong. Asked again every ten seconds."
    >
      <div class="cards">
        <Services />
        <Gateway />
      </div>
    </Page>
  );
}

/** A gateway without this service says that there is no such model. */
const absent = (error: unknown) =>
  [Code.Unimplemented, Code.InvalidArgument, Code.NotFound].includes(ConnectError.from(error).code);

type Row = ReturnType<typeof useStatuses>[number];
const SERVICES: Column<Row>[] = [
  { header: "Service", value: (r) => r.model, show: (r) => enumWord(r.model) },
  {
    header: "State",
    value: (r) => (r.query.error ? "no answer" : r.query.data ? "answers" : ""),
    show: ({ query }) =>
      query.error ? (
        <Badge tone={absent(query.error) ? "plain" : "bad"}>
          {absent(query.error) ? "Not offered" : "No answer"}
        </Badge>
      ) : query.data?.status ? (
        <StateBadge status={query.data.status} />
      ) : (
        "…"
      ),
  },
  { header: "Version", value: (r) => r.query.data?.status?.version },
  {
    header: "Answers since",
    value: (r) => Number(r.query.data?.status?.loadedAt?.seconds ?? 0n),
    show: (r) => moment(r.query.data?.status?.loadedAt),
  },
  {
    header: "Problem",
    value: (r) =>
      r.query.data?.status?.refusal ||
      (r.query.error && !absent(r.query.error) ? ConnectError.from(r.query.error).rawMessage : ""),
    wide: true,
  },
];

function Services() {
  return (
    <Card title="Services">
      <Table label="Services" rows={useStatuses()} columns={SERVICES} />
    </Card>
  );
}

const CALLS = "rpc_server_call_duration_seconds";
const LOOKUPS = "shopkeeper_gateway_cache_lookups_total";

interface Method {
  method: string;
  calls: number;
  errors: number;
  p50?: number;
  p95?: number;
  p99?: number;
}
const METHODS: Column<Method>[] = [
  { header: "Method", value: (m) => m.method, wide: true },
  { header: "Calls", value: (m) => m.calls, format: count },
  { header: "Errors", value: (m) => m.errors, format: count },
  { header: "Median", value: (m) => m.p50, format: milliseconds },
  { header: "95 of 100 within", value: (m) => m.p95, format: milliseconds },
  { header: "99 of 100 within", value: (m) => m.p99, format: milliseconds },
];
const FAULTS = new Set([
  "UNAVAILABLE",
  "INTERNAL",
  "UNKNOWN",
  "DEADLINE_EXCEEDED",
  "RESOURCE_EXHAUSTED",
  "DATA_LOSS",
]);

function methodsOf(samples: Sample[]): Method[] {
  const ms = (seconds: number | undefined) => (seconds === undefined ? undefined : seconds * 1000);
  return [...sumBy(samples, `${CALLS}_count`, "rpc_method")]
    .map(([method, calls]): Method => {
      const mine = (labels: Sample["labels"]) => labels.rpc_method === method;
      const errors = samples
        .filter(
          (s) =>
            s.name === `${CALLS}_count` &&
            mine(s.labels) &&
            FAULTS.has(s.labels.rpc_response_status_code ?? ""),
        )
        .reduce((all, s) => all + s.value, 0);
      return {
        method: method
          .split("/")
          .slice(-2)
          .join("/")
          .replace(/^shopkeeper\.\w+\.v\d\./, ""),
        calls,
        errors,
        p50: ms(quantile(samples, CALLS, 0.5, mine)),
        p95: ms(quantile(samples, CALLS, 0.95, mine)),
        p99: ms(quantile(samples, CALLS, 0.99, mine)),
      };
    })
    .toSorted((a, b) => b.calls - a.calls);
}

interface Part {
  name: string;
  value: number;
}
const PARTS: Column<Part>[] = [
  { header: "Outcome", value: (p) => p.name },
  { header: "Calls", value: (p) => p.value, format: count },
];

function Gateway() {
  const metrics = useMetrics();
  if (!metrics.error && metrics.data === undefined)
    return (
      <Card title="Gateway">
        <Loading />
      </Card>
    );
  if (metrics.error)
    return (
      <Card title="Gateway">
        <Problem error={metrics.error} retry={metrics.refetch} />
      </Card>
    );
  if (metrics.data === null)
    return (
      <Card title="Gateway">
        <Empty>This gateway does not show its calls, latency and cache here.</Empty>
      </Card>
    );
  const samples = metrics.data ?? [];
  const methods = methodsOf(samples);
  const calls = methods.reduce((all, m) => all + m.calls, 0);
  const errors = methods.reduce((all, m) => all + m.errors, 0);
  const outcomes = [...sumBy(samples, LOOKUPS, "outcome")].map(([name, value]): Part => ({
    name: enumWord(name.replace("-", ", ")),
    value,
  }));
  const codes = [...sumBy(samples, `${CALLS}_count`, "rpc_response_status_code")].map(
    ([name, value]): Part => ({ name, value }),
  );
  const looked = outcomes.filter((o) => o.name !== "Bypass").reduce((all, o) => all + o.value, 0);
  const hits = outcomes
    .filter((o) => o.name.startsWith("Hit"))
    .reduce((all, o) => all + o.value, 0);
  const p95 = quantile(samples, CALLS, 0.95, () => true);
  return (
    <>
      <Card title="Gateway" note="Since it started">
        <dl class="figures">
          <Figure name="Calls" value={count(calls)} />
          <Figure
            name="95 of 100 within"
            value={p95 === undefined ? "–" : milliseconds(p95 * 1000)}
            note="to the head of the answer"
          />
          <Figure
            name="From the cache"
            value={looked ? percent(hits / looked) : "–"}
            note={`${count(hits)} of ${count(looked)} lookups`}
          />
          <Figure
            name="Errors"
            value={calls ? percent(errors / calls, 2) : "–"}
            note={`${count(errors)} calls`}
            tone={errors ? "bad" : undefined}
          />
        </dl>
      </Card>
      <Bars title="Cache" note="Cacheable calls by where the answer came from" parts={outcomes} />
      <Bars title="Answers" note="Calls by status" parts={codes} />
      <Card title="Methods">
        <Answer of={metrics} empty={() => methods.length === 0} nothing="Nobody has called yet.">
          {() => (
            <Table label="Calls by method" rows={methods} columns={METHODS} download="methods" />
          )}
        </Answer>
      </Card>
    </>
  );
}

function Bars({ title, note, parts }: { title: string; note: string; parts: Part[] }) {
  return (
    <Card title={title} note={note} span={6}>
      {parts.length === 0 ? (
        <Empty>Nothing counted yet.</Empty>
      ) : (
        <Chart
          label={note}
          height="low"
          rows={parts}
          columns={PARTS}
          option={(colors) => ({
            tooltip: tooltip(colors, { valueFormatter: (v: unknown) => count(Number(v)) }),
            grid: {
              left: 8,
              right: 48,
              top: 4,
              bottom: 4,
              outerBoundsMode: "same",
              outerBoundsContain: "axisLabel",
            },
            xAxis: { type: "value", show: false },
            yAxis: {
              type: "category",
              inverse: true,
              data: parts.map((p) => p.name),
              ...axis(colors),
              axisLabel: { color: colors.text },
            },
            series: [
              {
                type: "bar",
                barMaxWidth: 22,
                data: parts.map((p) => p.value),
                label: {
                  show: true,
                  position: "right",
                  color: colors.muted,
                  formatter: ({ value }) => count(Number(value)),
                },
              },
            ],
          })}
        />
      )}
    </Card>
  );
}
