// Lines that look wrong, and whether somebody has looked at them.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQuery } from "@tanstack/preact-query";
import { ask, askAll } from "../api";
import { axis, Chart, timeAxis, tooltip } from "../chart";
import { ClearFilters, CountryFilter, RangeFilter } from "../filters";
import { count, enumWord, isoDay, moment, money, price, sentence, timeOf } from "../format";
import { AnomalyService, Severity, type Anomaly } from "../gen/shopkeeper/anomaly/v1/anomaly_pb";
import {
  Answer,
  Badge,
  Card,
  Choice,
  CustomerLink,
  Figure,
  Page,
  ProductLink,
  SelectFilter,
} from "../parts";
import { seen } from "../session";
import { useRange } from "../shop";
import { Table, type Column } from "../table";
import { filter } from "../url";

const SEVERITIES = [Severity.HIGH, Severity.MEDIUM, Severity.LOW];
const TONES = {
  [Severity.HIGH]: "bad",
  [Severity.MEDIUM]: "weak",
  [Severity.LOW]: "plain",
} as const;

export const SeverityBadge = ({ severity }: { severity: Severity }) => (
  <Badge tone={TONES[severity as keyof typeof TONES] ?? "plain"}>
    {enumWord(Severity[severity])}
  </Badge>
);

/** The line's name among those seen: lines of a receipt can be alike in all but their number. */
export const anomalyKey = ({ transaction: t }: Anomaly) =>
  `${t?.invoice}/${t?.lineId}/${t?.stockCode}`;
const total = ({ transaction: t }: Anomaly) => Number(t?.quantity ?? 0) * (t?.unitPrice ?? 0);
const severityOf = (a: Anomaly) => a.score?.severity ?? Severity.NONE;

const COLUMNS: Column<Anomaly>[] = [
  {
    header: "Seen",
    value: (a) => (seen.has(anomalyKey(a)) ? "seen" : "new"),
    show: (a) => (
      <input
        type="checkbox"
        aria-label={`Seen: ${a.transaction?.stockCode} of ${a.transaction?.invoice}`}
        checked={seen.has(anomalyKey(a))}
        onChange={() => seen.toggle(anomalyKey(a))}
      />
    ),
  },
  {
    header: "Severity",
    value: (a) => enumWord(Severity[severityOf(a)]),
    show: (a) => <SeverityBadge severity={severityOf(a)} />,
  },
  {
    header: "When",
    value: (a) => timeOf(a.transaction?.invoiceTime),
    show: (a) => (
      <>
        {moment(a.transaction?.invoiceTime)}
        <span class="below-value">invoice {a.transaction?.invoice}</span>
      </>
    ),
  },
  { header: "Invoice", value: (a) => a.transaction?.invoice, hidden: true },
  { header: "Line id", value: (a) => a.transaction?.lineId, hidden: true },
  {
    header: "Product",
    value: (a) => a.transaction?.stockCode,
    show: (a) => <ProductLink code={a.transaction?.stockCode ?? ""} />,
  },
  { header: "Reason", value: (a) => sentence(a.score?.reason ?? ""), wide: true },
  { header: "Pieces", value: (a) => Number(a.transaction?.quantity), format: count },
  { header: "Unit price", value: (a) => a.transaction?.unitPrice, format: price },
  { header: "Total", value: total, format: money },
  { header: "Score", value: (a) => a.score?.score, hidden: true },
  {
    header: "Customer",
    value: (a) => a.transaction?.customerId,
    show: (a) => <CustomerLink id={a.transaction?.customerId ?? ""} />,
  },
  { header: "Country", value: (a) => a.transaction?.country, hidden: true },
];

export default function Anomalies() {
  const { startTime, endTime } = useRange();
  const least = Severity[filter("severity", "MEDIUM") as keyof typeof Severity] ?? Severity.MEDIUM;
  const country = filter("country");
  const show = filter("show", "all");
  const answer = useQuery({
    queryKey: ["anomalies", least, filter("from"), filter("to")],
    queryFn: () =>
      askAll(
        (pageToken) =>
          ask(AnomalyService.method.listAnomalies, {
            pageSize: 1000,
            pageToken,
            minSeverity: least,
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
    (a) => show === "all" || seen.has(anomalyKey(a)) === (show === "seen"),
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
            otherwise="MEDIUM"
            options={SEVERITIES.map((s): [string, string] => [Severity[s], enumWord(Severity[s])])}
          />
          <Choice
            name="show"
            label="Show"
            otherwise="all"
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
          <Answer of={answer}>
            {() => (
              <dl class="figures">
                {SEVERITIES.filter((s) => s >= least).map((s) => (
                  <Figure
                    key={s}
                    name={`${enumWord(Severity[s])} severity`}
                    value={count(ofCountry.filter((a) => severityOf(a) === s).length)}
                    note="lines"
                  />
                ))}
                <Figure
                  name="Not seen"
                  value={count(ofCountry.filter((a) => !seen.has(anomalyKey(a))).length)}
                  note="in this browser"
                />
                <Figure
                  name="Their total"
                  value={money(ofCountry.reduce((all, a) => all + total(a), 0))}
                  note="as booked"
                />
              </dl>
            )}
          </Answer>
        </Card>
        <Card title="Timeline" note="Lines a day">
          <Answer of={answer} empty={() => chosen.length === 0}>
            {() => <Timeline anomalies={chosen} />}
          </Answer>
        </Card>
        <Card title="Lines" note="The most severe first">
          <Answer of={answer} empty={() => chosen.length === 0}>
            {() => (
              <Table label="Unusual lines" rows={chosen} columns={COLUMNS} download="anomalies" />
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
const DAYS: Column<Day>[] = [
  { header: "Day", value: (d) => d.day, show: (d) => isoDay(d.day) },
  ...SEVERITIES.map((s, at): Column<Day> => ({
    header: enumWord(Severity[s]),
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
    .map(([on, those]): Day => ({
      day: on,
      counts: SEVERITIES.map((s) => those.filter((a) => severityOf(a) === s).length),
    }))
    .toSorted((a, b) => a.day.localeCompare(b.day));
  return (
    <Chart
      label="Unusual lines a day by severity"
      height="low"
      rows={rows}
      columns={DAYS}
      option={(colors) => ({
        color: [colors.bad, colors.series[1]!, colors.series[7]!],
        tooltip: tooltip(colors, { trigger: "axis", axisPointer: { type: "shadow" } }),
        xAxis: timeAxis(colors),
        yAxis: { type: "value", minInterval: 1, ...axis(colors) },
        series: SEVERITIES.map((s, at) => ({
          name: enumWord(Severity[s]),
          type: "bar",
          stack: "lines",
          barMaxWidth: 14,
          data: rows.map((r) => [r.day, r.counts[at]]),
        })),
      })}
    />
  );
}
