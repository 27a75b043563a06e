// New and returning customers over time.
import { axis, Chart, timeAxis, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { useRange } from "../../data/queries";
import { count, day, isoDate, money } from "../../format";
import {
  type CustomerGrowth,
  Frequency,
  InsightsService,
} from "../../gen/shopkeeper/insights/v1/insights_pb";
import { filter } from "../../url";
import { FREQUENCIES } from "./frequency";

const GROWTH_COLUMNS: Column<CustomerGrowth>[] = [
  {
    header: "Period from",
    value: (p) => isoDate(p.periodStart),
    render: (p) => day(p.periodStart),
  },
  { header: "New customers", value: (p) => Number(p.newCustomers), format: count },
  { header: "Returning customers", value: (p) => Number(p.returningCustomers), format: count },
  { header: "Revenue of new", value: (p) => p.newRevenue, format: money },
  { header: "Revenue of returning", value: (p) => p.returningRevenue, format: money },
];

export function Growth() {
  const frequency = FREQUENCIES[filter("every", "week")] ?? Frequency.WEEKLY;
  const growth = useCall(InsightsService.method.listCustomerGrowth, {
    ...useRange(),
    frequency,
    pageSize: 1000,
  });
  return (
    <Card title="New and returning customers" span={6}>
      <Answer query={growth} isEmpty={(a) => a.periods.length === 0}>
        {({ periods }) => (
          <Chart
            label="New and returning customers over time"
            rows={periods}
            columns={GROWTH_COLUMNS}
            download="growth"
            option={(colors) => ({
              tooltip: tooltip(colors, {
                trigger: "axis",
                valueFormatter: (v: unknown) => count(Number(v)),
              }),
              xAxis: timeAxis(colors),
              yAxis: { type: "value", ...axis(colors) },
              series: (["newCustomers", "returningCustomers"] as const).map((which) => ({
                name: which === "newCustomers" ? "New" : "Returning",
                type: "bar",
                stack: "customers",
                barMaxWidth: 24,
                data: periods.map((p) => [isoDate(p.periodStart), Number(p[which])]),
              })),
            })}
          />
        )}
      </Answer>
    </Card>
  );
}
