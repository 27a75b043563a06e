// A customer's churn risk, and the contribution of each reason.
import { axis, Chart, tooltip } from "../../components/chart";
import { Card, Figure } from "../../components/layout";
import { RiskBadge } from "../../components/risks";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { decimal, money, percent, sentence } from "../../format";
import { ChurnService, type Reason } from "../../gen/shopkeeper/churn/v1/churn_pb";

const REASON_COLUMNS: Column<Reason>[] = [
  { header: "Reason", value: (r) => r.text, wide: true },
  { header: "Contribution to the log-odds", value: (r) => r.contribution, format: decimal },
];

export function Risk({ id }: { id: string }) {
  const answer = useCall(ChurnService.method.getChurnRisk, { customerId: id });
  return (
    <Card title="Churn risk" note="Chance of no purchase in the next 90 days" span={7}>
      <Answer query={answer}>
        {({ churnRisk: r }) => {
          if (!r) return null;
          const rows = r.reasons;
          return (
            <>
              <dl class="figures">
                <Figure
                  name="Chance"
                  value={percent(r.probability)}
                  note={<RiskBadge level={r.riskLevel} />}
                />
                <Figure
                  name="Spend in the last year"
                  value={r.annualValue === undefined ? "–" : money(r.annualValue)}
                />
                <Figure
                  name="Value at risk"
                  value={r.valueAtRisk === undefined ? "–" : money(r.valueAtRisk)}
                  note="chance × spend"
                />
              </dl>
              <Chart
                label="Contribution of each reason to the risk"
                height="low"
                rows={rows}
                columns={REASON_COLUMNS}
                option={(colors) => ({
                  tooltip: tooltip(colors, {
                    formatter: ({ dataIndex }: { dataIndex: number }) =>
                      `${sentence(rows[dataIndex]!.text)}\n${rows[dataIndex]!.contribution > 0 ? "raises the risk" : "lowers the risk"}`,
                  }),
                  grid: {
                    left: 8,
                    right: 16,
                    top: 4,
                    bottom: 4,
                    outerBoundsMode: "same",
                    outerBoundsContain: "axisLabel",
                  },
                  xAxis: { type: "value", ...axis(colors) },
                  yAxis: {
                    type: "category",
                    inverse: true,
                    data: rows.map((reason) => sentence(reason.text)),
                    ...axis(colors),
                    axisLabel: {
                      color: colors.text,
                      width: 150,
                      overflow: "break",
                      lineHeight: 14,
                    },
                  },
                  series: [
                    {
                      type: "bar",
                      barMaxWidth: 18,
                      data: rows.map((reason) => ({
                        value: reason.contribution,
                        itemStyle: { color: reason.contribution > 0 ? colors.bad : colors.good },
                      })),
                    },
                  ],
                })}
              />
            </>
          );
        }}
      </Answer>
    </Card>
  );
}
