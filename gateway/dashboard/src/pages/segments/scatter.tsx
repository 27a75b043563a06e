// Recency, frequency and spend of each customer.
import { axis, Chart, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import { count, days, money, shortMoney } from "../../format";
import { CUSTOMER_COLUMNS, useFilteredCustomers } from "./customers";

export function Scatter() {
  const chosen = useFilteredCustomers();
  return (
    <Card
      title="Recency, frequency and spend"
      span={6}
      note="One point per customer. Larger points: more orders. Spend on a logarithmic scale."
    >
      <Answer query={chosen} isEmpty={(a) => a.customers.length === 0}>
        {({ customers }) => {
          const groups = Map.groupBy(customers, (c) => c.segment.segmentId);
          return (
            <Chart
              label="Days since the last order against spend of each customer"
              rows={customers}
              columns={CUSTOMER_COLUMNS}
              option={(colors) => ({
                tooltip: tooltip(colors, {
                  formatter: ({ value }: { value: [number, number, number, string] }) =>
                    `${value[3]}\n${days(value[0])} ago\n${count(value[2])} orders\n${money(value[1])}`,
                }),
                xAxis: {
                  type: "value",
                  name: "days since the last order",
                  nameLocation: "middle",
                  nameGap: 24,
                  ...axis(colors),
                },
                yAxis: {
                  type: "log",
                  min: 10,
                  ...axis(colors),
                  axisLabel: { color: colors.muted, formatter: shortMoney },
                },
                grid: {
                  left: 8,
                  right: 16,
                  top: 32,
                  bottom: 24,
                  outerBoundsMode: "same",
                  outerBoundsContain: "axisLabel",
                },
                series: [...groups]
                  .toSorted(([a], [b]) => a - b)
                  .map(([id, members]) => ({
                    name: members[0]!.segment.segmentName,
                    type: "scatter",
                    color: colors.series[(id - 1) % colors.series.length],
                    symbolSize: (value: number[]) =>
                      Math.min(20, 3 + 1.6 * Math.sqrt(value[2] ?? 1)),
                    itemStyle: { opacity: 0.65 },
                    data: members
                      .filter((c) => (c.segment.rfm?.monetary ?? 0) > 0)
                      .map((c) => [
                        c.segment.rfm!.recencyDays,
                        c.segment.rfm!.monetary,
                        c.segment.rfm!.frequency,
                        c.segment.customerId,
                      ]),
                  })),
              })}
            />
          );
        }}
      </Answer>
    </Card>
  );
}
