// Metrics from the evaluation of a model: of the current version, and over versions.
import { axis, Chart, tooltip } from "../../components/chart";
import { SelectFilter } from "../../components/inputs";
import { Card } from "../../components/layout";
import { Empty } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { metricName, metricValue } from "../../evaluation-metrics";
import { isoDate, decimal, formatIsoDate } from "../../format";
import type { ModelVersion } from "../../gen/shopkeeper/model/v1/model_pb";
import { filter } from "../../url";

interface MetricRow {
  version: string;
  asOf: string;
  name: string;
  value: number;
  baseline?: number;
  /** Value of the next older version. */
  previous?: number;
}

const METRIC_COLUMNS: Column<MetricRow>[] = [
  { header: "Metric", value: (m) => metricName(m.name), wide: true },
  {
    header: "Model",
    value: (m) => m.value,
    format: (v) => decimal(v, 3),
    render: (m) => metricValue(m.name, m.value),
  },
  {
    header: "Baseline",
    value: (m) => m.baseline,
    format: (v) => decimal(v, 3),
    render: (m) => (m.baseline === undefined ? "–" : metricValue(m.name, m.baseline)),
  },
];

const CURRENT_COLUMNS: Column<MetricRow>[] = [
  ...METRIC_COLUMNS,
  {
    header: "Previous version",
    value: (m) => m.previous,
    format: (v) => decimal(v, 3),
    render: (m) => (m.previous === undefined ? "–" : metricValue(m.name, m.previous)),
  },
];

const shortVersion = (version: string) => version.split("-").at(-1)!.slice(0, 6);

const HISTORY_COLUMNS: Column<MetricRow>[] = [
  { header: "Version", value: (m) => m.version },
  { header: "As of", value: (m) => m.asOf, render: (m) => formatIsoDate(m.asOf) },
  ...METRIC_COLUMNS.slice(1),
];

export function Evaluation({ versions }: { versions: ModelVersion[] }) {
  const rows = versions.toReversed().flatMap((v) =>
    v.metrics.map((m): MetricRow => ({
      version: v.version,
      asOf: isoDate(v.asOf),
      name: m.name,
      value: m.value,
      baseline: m.baseline,
    })),
  );
  const names = [...new Set(rows.map((r) => r.name))];
  const chosen = names.includes(filter("figure")) ? filter("figure") : names[0];
  const shown = rows.filter((r) => r.name === chosen);
  const current = versions.find((v) => v.current) ?? versions[0];
  // The list is in descending order of time.
  const older = current && versions[versions.indexOf(current) + 1];
  const currentRows = rows
    .filter((r) => r.version === current?.version)
    .map((r): MetricRow => ({
      ...r,
      previous: older?.metrics.find((m) => m.name === r.name)?.value,
    }));
  if (!chosen)
    return (
      <Card title="Metrics">
        <Empty>These versions were published without an evaluation.</Empty>
      </Card>
    );
  return (
    <div class="cards">
      <Card
        title="Metrics of the current version"
        note="On transactions after those it was trained on"
        span={6}
      >
        <Table
          label="Metrics of the current version"
          rows={currentRows}
          columns={older ? CURRENT_COLUMNS : METRIC_COLUMNS}
        />
      </Card>
      <Card
        title="Metric over versions"
        note="Dashed: a naive baseline"
        span={6}
        actions={
          <form class="filters" onSubmit={(event) => event.preventDefault()}>
            <SelectFilter
              name="figure"
              label="Metric"
              fallback={names[0]}
              options={names.map((n): [string, string] => [n, metricName(n)])}
            />
          </form>
        }
      >
        <Chart
          label={`${metricName(chosen)} over the versions of the model`}
          rows={shown}
          columns={HISTORY_COLUMNS}
          option={(colors) => ({
            tooltip: tooltip(colors, {
              trigger: "axis",
              valueFormatter: (v: unknown) => (v === null ? "–" : metricValue(chosen, Number(v))),
            }),
            xAxis: {
              type: "category",
              data: shown.map((r) => `${formatIsoDate(r.asOf)} · ${shortVersion(r.version)}`),
              ...axis(colors),
            },
            yAxis: {
              type: "value",
              scale: true,
              ...axis(colors),
              axisLabel: { color: colors.muted, formatter: (v: number) => metricValue(chosen, v) },
            },
            series: [
              { type: "line", name: "Model", symbolSize: 9, data: shown.map((r) => r.value) },
              ...(shown.some((r) => r.baseline !== undefined)
                ? [
                    {
                      type: "line" as const,
                      name: "Baseline",
                      symbolSize: 9,
                      lineStyle: { type: "dashed" as const },
                      data: shown.map((r) => r.baseline ?? null),
                    },
                  ]
                : []),
            ],
          })}
        />
      </Card>
    </div>
  );
}
