// The gateway's calls, latency, cache lookups and errors, from its own metrics.
import { axis, Chart, tooltip } from "../../components/chart";
import { Card, Figure } from "../../components/layout";
import { Answer, Empty, Loading, Problem } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { quantile, type Sample, sumBy, useMetrics } from "../../data/prometheus";
import { count, enumLabel, milliseconds, percent } from "../../format";

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

const METHOD_COLUMNS: Column<Method>[] = [
  { header: "Method", value: (m) => m.method, wide: true },
  { header: "Calls", value: (m) => m.calls, format: count },
  { header: "Errors", value: (m) => m.errors, format: count },
  { header: "Median", value: (m) => m.p50, format: milliseconds },
  { header: "95th percentile", value: (m) => m.p95, format: milliseconds },
  { header: "99th percentile", value: (m) => m.p99, format: milliseconds },
];

/** Status codes that count as errors: failures of a server, not of the caller. */
const SERVER_ERRORS = new Set([
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
      const isMethod = (labels: Sample["labels"]) => labels.rpc_method === method;
      const errors = samples
        .filter(
          (s) =>
            s.name === `${CALLS}_count` &&
            isMethod(s.labels) &&
            SERVER_ERRORS.has(s.labels.rpc_response_status_code ?? ""),
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
        p50: ms(quantile(samples, CALLS, 0.5, isMethod)),
        p95: ms(quantile(samples, CALLS, 0.95, isMethod)),
        p99: ms(quantile(samples, CALLS, 0.99, isMethod)),
      };
    })
    .toSorted((a, b) => b.calls - a.calls);
}

interface Outcome {
  name: string;
  value: number;
}

const OUTCOME_COLUMNS: Column<Outcome>[] = [
  { header: "Outcome", value: (p) => p.name },
  { header: "Calls", value: (p) => p.value, format: count },
];

export function Gateway() {
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
        <Empty>The gateway does not serve its metrics on this port.</Empty>
      </Card>
    );
  const samples = metrics.data ?? [];
  const methods = methodsOf(samples);
  const calls = methods.reduce((all, m) => all + m.calls, 0);
  const errors = methods.reduce((all, m) => all + m.errors, 0);
  const outcomes = [...sumBy(samples, LOOKUPS, "outcome")].map(([name, value]): Outcome => ({
    name: enumLabel(name.replace("-", ", ")),
    value,
  }));
  const codes = [...sumBy(samples, `${CALLS}_count`, "rpc_response_status_code")].map(
    ([name, value]): Outcome => ({ name, value }),
  );
  const lookups = outcomes.filter((o) => o.name !== "Bypass").reduce((all, o) => all + o.value, 0);
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
            name="95th percentile"
            value={p95 === undefined ? "–" : milliseconds(p95 * 1000)}
            note="until the response headers"
          />
          <Figure
            name="Cache hits"
            value={lookups ? percent(hits / lookups) : "–"}
            note={`${count(hits)} of ${count(lookups)} lookups`}
          />
          <Figure
            name="Errors"
            value={calls ? percent(errors / calls, 2) : "–"}
            note={`${count(errors)} calls`}
            tone={errors ? "bad" : undefined}
          />
        </dl>
      </Card>
      <Bars title="Cache" note="Cache lookups by outcome" parts={outcomes} />
      <Bars title="Answers" note="Calls by status" parts={codes} />
      <Card title="Methods">
        <Answer query={metrics} isEmpty={() => methods.length === 0} emptyText="No calls yet.">
          {() => (
            <Table
              label="Calls by method"
              rows={methods}
              columns={METHOD_COLUMNS}
              download="methods"
            />
          )}
        </Answer>
      </Card>
    </>
  );
}

function Bars({ title, note, parts }: { title: string; note: string; parts: Outcome[] }) {
  return (
    <Card title={title} note={note} span={6}>
      {parts.length === 0 ? (
        <Empty>Nothing counted yet.</Empty>
      ) : (
        <Chart
          label={note}
          height="low"
          rows={parts}
          columns={OUTCOME_COLUMNS}
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
