// Who is about to stop buying, what would go with them, and why.
import { useCall } from "../api";
import { axis, Chart, tooltip, type Palette } from "../chart";
import { CountryFilter } from "../filters";
import { count, day, enumWord, money, percent, sentence } from "../format";
import {
  ChurnService,
  RiskLevel,
  type ChurnRisk,
  type GetChurnCalibrationResponse_CalibrationBin,
} from "../gen/shopkeeper/churn/v1/churn_pb";
import { Answer, Badge, Card, CustomerLink, Figure, Page, SelectFilter } from "../parts";
import { useRisks } from "../shop";
import { Table, type Column } from "../table";
import { filter } from "../url";

const LEVELS = [RiskLevel.HIGH, RiskLevel.MEDIUM, RiskLevel.LOW];
export const RiskBadge = ({ level }: { level: RiskLevel }) => (
  <Badge tone={level === RiskLevel.HIGH ? "bad" : level === RiskLevel.MEDIUM ? "weak" : "good"}>
    {enumWord(RiskLevel[level])}
  </Badge>
);

export default function Churn() {
  const country = filter("country");
  const risks = useRisks(country);
  const least = filter("risk", "MEDIUM");
  const reason = filter("reason");
  const all = risks.data?.items ?? [];
  const chosen = all.filter(
    (r) =>
      r.riskLevel >= (RiskLevel[least as keyof typeof RiskLevel] ?? RiskLevel.MEDIUM) &&
      (!reason || strongest(r)?.feature === reason),
  );
  const reasons = [...new Set(all.flatMap((r) => strongest(r)?.feature ?? []))].toSorted();
  return (
    <Page
      title="Churn"
      lead="Who will probably buy nothing in the next 90 days, ordered by what would be lost with them."
      filters={
        <>
          <CountryFilter />
          <SelectFilter
            name="risk"
            label="Risk at least"
            otherwise="MEDIUM"
            options={LEVELS.map((l): [string, string] => [RiskLevel[l], enumWord(RiskLevel[l])])}
          />
          <SelectFilter
            name="reason"
            label="Strongest reason"
            options={[
              ["", "Any"],
              ...reasons.map((r): [string, string] => [r, r.replaceAll("_", " ")]),
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Card
          title="Figures"
          note={
            risks.data &&
            `As of ${day(risks.data.first.asOf)}, by model ${risks.data.first.model?.version}`
          }
        >
          <Answer of={risks}>
            {({ total }) => (
              <dl class="figures">
                <Figure name="Customers" value={count(total)} note={country || "all countries"} />
                {LEVELS.map((level) => {
                  const those = all.filter((r) => r.riskLevel === level);
                  return (
                    <Figure
                      key={level}
                      name={`${enumWord(RiskLevel[level])} risk`}
                      value={count(those.length)}
                      note={`${money(sum(those))} at risk`}
                    />
                  );
                })}
                <Figure
                  name="Value at risk"
                  value={money(sum(all))}
                  note="chance times last year's spend"
                />
              </dl>
            )}
          </Answer>
        </Card>
        <Distribution risks={risks} />
        <Calibration />
        <Card
          title="Customers at risk"
          note={
            risks.data && risks.data.total > all.length
              ? `Among the ${count(all.length)} with most value at risk of ${count(risks.data.total)}`
              : "By the value that would be lost with them"
          }
        >
          <Answer of={risks} empty={() => chosen.length === 0}>
            {() => (
              <Table label="Customers at risk" rows={chosen} columns={RISKS} download="at-risk" />
            )}
          </Answer>
        </Card>
      </div>
    </Page>
  );
}

const sum = (risks: ChurnRisk[]) => risks.reduce((all, r) => all + (r.valueAtRisk ?? 0), 0);
/** What drives a risk most, upwards. */
const strongest = (risk: ChurnRisk) => risk.reasons.find((r) => r.contribution > 0);
/** The reasons that raise a risk, or those that lower it, in words. */
const texts = (risk: ChurnRisk, raise: boolean, most?: number) =>
  sentence(
    risk.reasons
      .filter((r) => (raise ? r.contribution > 0 : r.contribution < 0))
      .slice(0, most)
      .map((r) => r.text)
      .join("; "),
  );

export const RISKS: Column<ChurnRisk>[] = [
  {
    header: "Customer",
    value: (r) => r.customerId,
    show: (r) => <CustomerLink id={r.customerId} />,
  },
  {
    header: "Risk",
    value: (r) => enumWord(RiskLevel[r.riskLevel]),
    show: (r) => <RiskBadge level={r.riskLevel} />,
  },
  { header: "Chance", value: (r) => r.probability, format: percent },
  { header: "Spend in the last year", value: (r) => r.annualValue, format: money },
  { header: "Value at risk", value: (r) => r.valueAtRisk, format: money },
  {
    header: "Reasons",
    value: (r) => texts(r, true),
    wide: true,
    show: (r) => texts(r, true, 3) || "–",
  },
  { header: "Speaks against it", value: (r) => texts(r, false), hidden: true },
];

interface Bin {
  from: number;
  customers: number;
  value: number;
}
const BINS: Column<Bin>[] = [
  { header: "Chance from", value: (b) => b.from, format: (v) => percent(v, 0) },
  { header: "Customers", value: (b) => b.customers, format: count },
  { header: "Value at risk", value: (b) => b.value, format: money },
];

function Distribution({ risks }: { risks: ReturnType<typeof useRisks> }) {
  const thresholds = useCall(ChurnService.method.getChurnCalibration, {});
  return (
    <Card title="How the chances spread" note="Customers by their chance to stop buying" span={6}>
      <Answer of={risks} empty={(a) => a.items.length === 0}>
        {({ items }) => {
          const bins: Bin[] = Array.from({ length: 20 }, (_, at) => ({
            from: at / 20,
            customers: 0,
            value: 0,
          }));
          for (const risk of items) {
            const bin = bins[Math.min(19, Math.floor(risk.probability * 20))]!;
            bin.customers += 1;
            bin.value += risk.valueAtRisk ?? 0;
          }
          const from = thresholds.data;
          const color = (at: number, colors: Palette) =>
            !from
              ? colors.accent
              : at >= from.highFrom
                ? colors.bad
                : at >= from.mediumFrom
                  ? colors.weak
                  : colors.good;
          return (
            <Chart
              label="Customers by chance to stop buying"
              rows={bins}
              columns={BINS}
              download="churn-distribution"
              option={(colors) => ({
                tooltip: tooltip(colors, {
                  trigger: "axis",
                  axisPointer: { type: "shadow" },
                  formatter: ([hit]: { dataIndex: number }[]) => {
                    const bin = bins[hit!.dataIndex]!;
                    return `${percent(bin.from, 0)} to ${percent(bin.from + 0.05, 0)}\n${count(bin.customers)} customers\n${money(bin.value)} at risk`;
                  },
                }),
                xAxis: {
                  type: "category",
                  data: bins.map((b) => percent(b.from, 0)),
                  ...axis(colors),
                },
                yAxis: { type: "value", name: "customers", ...axis(colors) },
                series: [
                  {
                    type: "bar",
                    barCategoryGap: "10%",
                    data: bins.map((b) => ({
                      value: b.customers,
                      itemStyle: { color: color(b.from + 0.025, colors) },
                    })),
                  },
                ],
              })}
            />
          );
        }}
      </Answer>
    </Card>
  );
}

const BELIEF: Column<GetChurnCalibrationResponse_CalibrationBin>[] = [
  { header: "Predicted from", value: (b) => b.lower, format: (v) => percent(v, 0) },
  { header: "Predicted on average", value: (b) => b.predicted, format: percent },
  { header: "Came so", value: (b) => b.observed, format: percent },
  { header: "Customers", value: (b) => Number(b.customers), format: count },
];

function Calibration() {
  const answer = useCall(ChurnService.method.getChurnCalibration, {});
  return (
    <Card
      title="Does a chance of 70 % mean 70 %?"
      note="What was predicted 90 days before the model's day, and what came. On the dashed line they are the same; larger: more customers."
      span={6}
    >
      <Answer
        of={answer}
        empty={(a) => a.bins.length === 0}
        nothing="This version was published without an evaluation."
      >
        {({ bins }) => (
          <Chart
            label="Predicted chance against the share that stopped buying"
            rows={bins}
            columns={BELIEF}
            download="churn-calibration"
            option={(colors) => ({
              tooltip: tooltip(colors, {
                formatter: ({
                  seriesType,
                  dataIndex,
                }: {
                  seriesType: string;
                  dataIndex: number;
                }) => {
                  const bin = bins[dataIndex];
                  if (seriesType !== "scatter" || !bin) return "";
                  return `predicted ${percent(bin.predicted)}\ncame so ${percent(bin.observed)}\n${count(bin.customers)} customers`;
                },
              }),
              grid: {
                left: 8,
                right: 16,
                top: 32,
                bottom: 24,
                outerBoundsMode: "same",
                outerBoundsContain: "axisLabel",
              },
              xAxis: {
                type: "value",
                min: 0,
                max: 1,
                name: "predicted",
                nameLocation: "middle",
                nameGap: 24,
                ...axis(colors),
                axisLabel: part(colors),
              },
              yAxis: {
                type: "value",
                min: 0,
                max: 1,
                name: "came so",
                ...axis(colors),
                axisLabel: part(colors),
              },
              series: [
                {
                  type: "line",
                  silent: true,
                  showSymbol: false,
                  lineStyle: { type: "dashed", color: colors.muted, width: 1 },
                  data: [
                    [0, 0],
                    [1, 1],
                  ],
                },
                {
                  type: "scatter",
                  color: colors.accent,
                  symbolSize: (value: number[]) => Math.min(30, 6 + Math.sqrt(value[2] ?? 0)),
                  data: bins.map((b) => [b.predicted, b.observed, Number(b.customers)]),
                },
              ],
            })}
          />
        )}
      </Answer>
    </Card>
  );
}
const part = (colors: Palette) => ({
  color: colors.muted,
  formatter: (v: number) => percent(v, 0),
});
