// The distribution of churn probabilities.
import { axis, Chart, type Palette, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { useRisks } from "../../data/queries";
import { count, money, percent } from "../../format";
import { ChurnService } from "../../gen/shopkeeper/churn/v1/churn_pb";

interface Bin {
  from: number;
  customers: number;
  value: number;
}

const BIN_COLUMNS: Column<Bin>[] = [
  { header: "Chance from", value: (b) => b.from, format: (v) => percent(v, 0) },
  { header: "Customers", value: (b) => b.customers, format: count },
  { header: "Value at risk", value: (b) => b.value, format: money },
];

export function Distribution({ risks }: { risks: ReturnType<typeof useRisks> }) {
  const thresholds = useCall(ChurnService.method.getChurnCalibration, {});
  return (
    <Card title="Distribution of chances" note="Customers by their chance to stop buying" span={6}>
      <Answer query={risks} isEmpty={(a) => a.items.length === 0}>
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
              columns={BIN_COLUMNS}
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
