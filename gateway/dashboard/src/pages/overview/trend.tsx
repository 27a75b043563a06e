// Revenue and orders over time.
import { axis, Chart, timeAxis, tooltip } from "../../components/chart";
import { Choice } from "../../components/inputs";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { useRange } from "../../data/queries";
import { count, day, isoDate, money, shortCount, shortMoney } from "../../format";
import {
  Frequency,
  InsightsService,
  type PeriodSales,
} from "../../gen/shopkeeper/insights/v1/insights_pb";
import { filter } from "../../url";
import { FREQUENCIES } from "./frequency";

const TREND_COLUMNS: Column<PeriodSales>[] = [
  {
    header: "Period from",
    value: (p) => isoDate(p.periodStart),
    render: (p) => day(p.periodStart),
  },
  { header: "Revenue", value: (p) => p.sales?.revenue, format: money },
  { header: "Orders", value: (p) => Number(p.sales?.orders), format: count },
  { header: "Customers", value: (p) => Number(p.sales?.customers), format: count },
  { header: "Units", value: (p) => Number(p.sales?.items), format: count },
];

export function Trend() {
  const frequency = FREQUENCIES[filter("every", "week")] ?? Frequency.WEEKLY;
  const trend = useCall(InsightsService.method.listSalesTrend, {
    ...useRange(),
    frequency,
    pageSize: 1000,
  });
  return (
    <Card
      title="Revenue over time"
      actions={
        <Choice
          name="every"
          label="Per"
          fallback="week"
          options={[
            ["day", "Day"],
            ["week", "Week"],
            ["month", "Month"],
            ["year", "Year"],
          ]}
        />
      }
    >
      <Answer query={trend} isEmpty={(a) => a.periods.length === 0}>
        {({ periods }) => (
          <Chart
            label={`Revenue per ${filter("every", "week")}`}
            rows={periods}
            columns={TREND_COLUMNS}
            download="trend"
            option={(colors) => ({
              tooltip: tooltip(colors, { trigger: "axis" }),
              xAxis: timeAxis(colors),
              yAxis: [
                {
                  type: "value",
                  ...axis(colors),
                  axisLabel: { color: colors.muted, formatter: shortMoney },
                },
                {
                  type: "value",
                  ...axis(colors, { splitLine: { show: false } }),
                  axisLabel: { color: colors.muted, formatter: shortCount },
                },
              ],
              dataZoom: [{ type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseMove: false }],
              series: [
                {
                  name: "Revenue",
                  type: "line",
                  showSymbol: false,
                  areaStyle: { opacity: 0.12 },
                  tooltip: { valueFormatter: (v) => money(Number(v)) },
                  data: periods.map((p) => [isoDate(p.periodStart), p.sales?.revenue ?? 0]),
                },
                {
                  name: "Orders (right)",
                  type: "line",
                  showSymbol: false,
                  yAxisIndex: 1,
                  lineStyle: { width: 1.5, type: "dashed" },
                  tooltip: { valueFormatter: (v) => count(Number(v)) },
                  data: periods.map((p) => [isoDate(p.periodStart), Number(p.sales?.orders ?? 0)]),
                },
              ],
            })}
          />
        )}
      </Answer>
    </Card>
  );
}
