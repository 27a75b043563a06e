// Each segment's share of customers and of spend.
import { axis, Chart, tooltip } from "../../components/chart";
import type { Column } from "../../components/table";
import { count, decimal, money, percent } from "../../format";
import type { Segment } from "../../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { setFilters } from "../../url";

const SHARE_COLUMNS: Column<Segment>[] = [
  { header: "Segment", value: (s) => s.name },
  { header: "Customers", value: (s) => Number(s.customers), format: count },
  { header: "Share of customers", value: (s) => s.customerShare, format: percent },
  { header: "Share of spend", value: (s) => s.monetaryShare, format: percent },
  { header: "Days since last order", value: (s) => s.average?.recencyDays, format: count },
  { header: "Orders", value: (s) => s.average?.frequency, format: (v) => decimal(v, 1) },
  { header: "Spend each", value: (s) => s.average?.monetary, format: money },
];

export function Shares({ segments }: { segments: Segment[] }) {
  return (
    <Chart
      label="Share of customers and share of spend of each segment"
      rows={segments}
      columns={SHARE_COLUMNS}
      download="segments"
      onChoose={(name) => setFilters({ segment: segments.find((s) => s.name === name)?.segmentId })}
      option={(colors) => ({
        tooltip: tooltip(colors, {
          trigger: "axis",
          axisPointer: { type: "shadow" },
          valueFormatter: (v: unknown) => percent(Number(v)),
        }),
        xAxis: {
          type: "value",
          ...axis(colors),
          axisLabel: { color: colors.muted, formatter: (v: number) => percent(v, 0) },
        },
        yAxis: {
          type: "category",
          inverse: true,
          data: segments.map((s) => s.name),
          ...axis(colors),
          axisLabel: { color: colors.text },
        },
        series: [
          { name: "Of customers", type: "bar", data: segments.map((s) => s.customerShare) },
          { name: "Of spend", type: "bar", data: segments.map((s) => s.monetaryShare) },
        ],
      })}
    />
  );
}
