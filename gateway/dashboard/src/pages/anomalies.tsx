// Unusual lines, and which of them the reader has marked as seen.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQuery } from "@tanstack/preact-query";
import { axis, Chart, timeAxis, tooltip } from "../components/chart";
import { ClearFilters, CountryFilter, RangeFilter } from "../components/filters";
import { Choice, SelectFilter } from "../components/inputs";
import { Badge, Card, CustomerLink, Figure, Page, ProductLink } from "../components/layout";
import { Answer } from "../components/states";
import { type Column, Table } from "../components/table";
import { call, callAllPages } from "../data/api";
import { useRange } from "../data/queries";
import {
  count,
  enumLabel,
  formatIsoDate,
  dateTime,
  money,
  price,
  sentence,
  isoDateTime,
} from "../format";
import { type Anomaly, AnomalyService, Severity } from "../gen/shopkeeper/anomaly/v1/anomaly_pb";
import { seenAnomalies } from "../session";
import { filter } from "../url";

const SEVERITIES = [Severity.HIGH, Severity.MEDIUM, Severity.LOW];

const TONES = {
  [Severity.HIGH]: "bad",
  [Severity.MEDIUM]: "weak",
  [Severity.LOW]: "plain",
} as const;

export const SeverityBadge = ({ severity }: { severity: Severity }) => (
  <Badge tone={TONES[severity as keyof typeof TONES] ?? "plain"}>
    {enumLabel(Severity[severity])}
  </Badge>
);

/**
 * The key of a line among those seen. Lines of an invoice can be equal in all but their line id.
 */
export const anomalyKey = ({ transaction: t }: Anomaly) =>
  `${t?.invoice}/${t?.lineId}/${t?.stockCode}`;

const total = ({ transaction: t }: Anomaly) => Number(t?.quantity ?? 0) * (t?.unitPrice ?? 0);

const severityOf = (a: Anomaly) => a.score?.severity ?? Severity.NONE;

const ANOMALY_COLUMNS: Column<Anomaly>[] = [
  {
    header: "Seen",
    value: (a) => (seenAnomalies.has(anomalyKey(a)) ? "seen" : "new"),
    render: (a) => (
      <input
        type="checkbox"
        aria-label={`Seen: ${a.transaction?.stockCode} of ${a.transaction?.invoice}`}
        checked={seenAnomalies.has(anomalyKey(a))}
        onChange={() => seenAnomalies.toggle(anomalyKey(a))}
      />
    ),
  },
  {
    header: "Severity",
    value: (a) => enumLabel(Severity[severityOf(a)]),
    render: (a) => <SeverityBadge severity={severityOf(a)} />,
  },
  {
    header: "When",
    value: (a) => isoDateTime(a.transaction?.invoiceTime),
    render: (a) => (
      <>
        {dateTime(a.transaction?.invoiceTime)}
        <span class="below-value">invoice {a.transaction?.invoice}</span>
      </>
    ),
  },
  { header: "Invoice", value: (a) => a.transaction?.invoice, downloadOnly: true },
  { header: "Line id", value: (a) => a.transaction?.lineId, downloadOnly: true },
  {
    header: "Product",
    value: (a) => a.transaction?.stockCode,
    render: (a) => <ProductLink code={a.transaction?.stockCode ?? ""} />,
  },
  { header: "Reason", value: (a) => sentence(a.score?.reason ?? ""), wide: true },
  { header: "Units", value: (a) => Number(a.transaction?.quantity), format: count },
  { header: "Unit price", value: (a) => a.transaction?.unitPrice, format: price },
  { header: "Total", value: total, format: money },
  { header: "Score", value: (a) => a.score?.score, downloadOnly: true },
  {
    header: "Customer",
    value: (a) => a.transaction?.customerId,
    render: (a) => <CustomerLink id={a.transaction?.customerId ?? ""} />,
  },
  { header: "Country", value: (a) => a.transaction?.country, downloadOnly: true },
];

export default function Anomalies() {
  const { startTime, endTime } = useRange();
  const minSeverity =
    Severity[filter("severity", "MEDIUM") as keyof typeof Severity] ?? Severity.MEDIUM;
  const country = filter("country");
  const show = filter("show", "all");
  const answer = useQuery({
    queryKey: ["anomalies", minSeverity, filter("from"), filter("to")],
    queryFn: () =>
      callAllPages(
        (pageToken) =>
          call(AnomalyService.method.listAnomalies, {
            pageSize: 1000,
            pageToken,
            minSeverity,
            startTime,
            endTime,
          }),
        (a) => a.anomalies,
      ),
    placeholderData: (last) => last,
  });
  const ofCountry =
    answer.data?.items.filter((a) => !country || a.transaction?.country === country) ?? [];
  const chosen = ofCountry.filter(
    (a) => show === "all" || seenAnomalies.has(anomalyKey(a)) === (show === "seen"),
  );
  return (
    <Page
      title="Anomalies"
      lead="Lines of the last 90 days that look like a typing error, or are far from what is usual for the product and the customer."
      filters={
        <>
          <CountryFilter />
          <RangeFilter />
          <SelectFilter
            name="severity"
            label="Severity at least"
            fallback="MEDIUM"
            options={SEVERITIES.map((s): [string, string] => [Severity[s], enumLabel(Severity[s])])}
          />
          <Choice
            name="show"
            label="Show"
            fallback="all"
            options={[
              ["all", "All"],
              ["new", "Not seen"],
              ["seen", "Seen"],
            ]}
          />
          <ClearFilters />
        </>
      }
    >
      <div class="cards">
        <Card title="Figures">
          <Answer query={answer}>
            {() => (
              <dl class="figures">
                {SEVERITIES.filter((s) => s >= minSeverity).map((s) => (
                  <Figure
                    key={s}
                    name={`${enumLabel(Severity[s])} severity`}
                    value={count(ofCountry.filter((a) => severityOf(a) === s).length)}
                    note="lines"
                  />
                ))}
                <Figure
                  name="Not seen"
                  value={count(ofCountry.filter((a) => !seenAnomalies.has(anomalyKey(a))).length)}
                  note="in this browser"
                />
                <Figure
                  name="Total"
                  value={money(ofCountry.reduce((all, a) => all + total(a), 0))}
                  note="as booked"
                />
              </dl>
            )}
          </Answer>
        </Card>
        <Card title="Timeline" note="Lines per day">
          <Answer query={answer} isEmpty={() => chosen.length === 0}>
            {() => <Timeline anomalies={chosen} />}
          </Answer>
        </Card>
        <Card title="Lines" note="In descending order of severity">
          <Answer query={answer} isEmpty={() => chosen.length === 0}>
            {() => (
              <Table
                label="Unusual lines"
                rows={chosen}
                columns={ANOMALY_COLUMNS}
                download="anomalies"
              />
            )}
          </Answer>
        </Card>
      </div>
    </Page>
  );
}

interface Day {
  day: string;
  counts: number[];
}

const DAY_COLUMNS: Column<Day>[] = [
  { header: "Day", value: (d) => d.day, render: (d) => formatIsoDate(d.day) },
  ...SEVERITIES.map((s, at): Column<Day> => ({
    header: enumLabel(Severity[s]),
    value: (d) => d.counts[at],
    format: count,
  })),
];

function Timeline({ anomalies }: { anomalies: Anomaly[] }) {
  const byDay = Map.groupBy(
    anomalies.filter((a) => a.transaction?.invoiceTime),
    (a) => timestampDate(a.transaction!.invoiceTime!).toISOString().slice(0, 10),
  );
  const rows = [...byDay]
    .map(([on, lines]): Day => ({
      day: on,
      counts: SEVERITIES.map((s) => lines.filter((a) => severityOf(a) === s).length),
    }))
    .toSorted((a, b) => a.day.localeCompare(b.day));
  return (
    <Chart
      label="Unusual lines per day by severity"
      height="low"
      rows={rows}
      columns={DAY_COLUMNS}
      option={(colors) => ({
        color: [colors.bad, colors.series[1]!, colors.series[7]!],
        tooltip: tooltip(colors, { trigger: "axis", axisPointer: { type: "shadow" } }),
        xAxis: timeAxis(colors),
        yAxis: { type: "value", minInterval: 1, ...axis(colors) },
        series: SEVERITIES.map((s, at) => ({
          name: enumLabel(Severity[s]),
          type: "bar",
          stack: "lines",
          barMaxWidth: 14,
          data: rows.map((r) => [r.day, r.counts[at]]),
        })),
      })}
    />
  );
}
