// Revenue by customer segment.
import { axis, Chart, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { useRange } from "../../data/queries";
import { count, money, percent, shortMoney } from "../../format";
import { InsightsService, type SegmentSales } from "../../gen/shopkeeper/insights/v1/insights_pb";

const SEGMENT_COLUMNS: Column<SegmentSales>[] = [
  { header: "Segment", value: (s) => s.segmentName },
  { header: "Revenue", value: (s) => s.sales?.revenue, format: money },
  { header: "Share", value: (s) => s.revenueShare, format: percent },
  { header: "Customers", value: (s) => Number(s.sales?.customers), format: count },
];

export function Segments() {
  const segments = useCall(InsightsService.method.listRevenueBySegment, useRange());
  return (
    <Card title="Revenue by segment" note="By the current segment of each customer" span={4}>
      <Answer query={segments} isEmpty={(a) => a.segments.length === 0}>
        {(a) => (
          <Chart
            label="Revenue of each customer segment"
            rows={a.segments}
            columns={SEGMENT_COLUMNS}
            option={(colors) => ({
              tooltip: tooltip(colors, { valueFormatter: (v: unknown) => money(Number(v)) }),
              grid: {
                left: 8,
                right: 56,
                top: 4,
                bottom: 4,
                outerBoundsMode: "same",
                outerBoundsContain: "axisLabel",
              },
              xAxis: { type: "value", show: false },
              yAxis: {
                type: "category",
                inverse: true,
                data: a.segments.map((s) => s.segmentName),
                ...axis(colors),
                axisLabel: { color: colors.text },
              },
              series: [
                {
                  type: "bar",
                  data: a.segments.map((s) => s.sales?.revenue ?? 0),
                  label: {
                    show: true,
                    position: "right",
                    color: colors.muted,
                    formatter: ({ value }) => shortMoney(Number(value)),
                  },
                },
              ],
            })}
          />
        )}
      </Answer>
    </Card>
  );
}
