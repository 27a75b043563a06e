// Retention of customers by the month of their first order.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { axis, Chart, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { useRange } from "../../data/queries";
import { count, isoDate, formatIsoDate, percent } from "../../format";
import { InsightsService } from "../../gen/shopkeeper/insights/v1/insights_pb";

interface CohortCell {
  cohort: string;
  offset: number;
  customers: number;
  retention: number;
}

const COHORT_COLUMNS: Column<CohortCell>[] = [
  { header: "First order in", value: (c) => c.cohort, render: (c) => formatIsoDate(c.cohort) },
  { header: "Months later", value: (c) => c.offset, format: count },
  { header: "Customers", value: (c) => c.customers, format: count },
  { header: "Bought again", value: (c) => c.retention, format: percent },
];

export function Cohorts() {
  const cohorts = useCall(InsightsService.method.listCohortRetention, {
    ...useRange(),
    pageSize: 1000,
  });
  return (
    <Card
      title="Customer retention"
      note="Customers by the month of their first order, and how many bought again later"
      span={6}
    >
      <Answer
        query={cohorts}
        isEmpty={(a) => !a.cohorts.some((c) => c.periods.some((p) => p.offset > 0))}
      >
        {(a) => {
          // The latest cohort has no later month yet.
          const shown = a.cohorts.filter(
            (c) => c.customers > 0n && c.periodStart && c.periods.some((p) => p.offset > 0),
          );
          const months = shown.map((c) =>
            timestampDate(c.periodStart!).toLocaleString(undefined, {
              month: "short",
              year: "2-digit",
              timeZone: "UTC",
            }),
          );
          const cells = shown.flatMap((c) =>
            c.periods
              .filter((p) => p.offset > 0)
              .map((p) => ({
                cohort: isoDate(c.periodStart),
                offset: p.offset,
                customers: Number(p.customers),
                retention: p.retention,
              })),
          );
          const row = new Map(shown.map((c, at) => [isoDate(c.periodStart), at]));
          const last = Math.max(1, ...cells.map((c) => c.offset));
          return (
            <Chart
              label="Share of each month's new customers that bought again, by months since"
              rows={cells}
              columns={COHORT_COLUMNS}
              download="cohorts"
              option={(colors) => ({
                tooltip: tooltip(colors, {
                  formatter: ({ value }: { value: [number, number, number] }) =>
                    `${months[value[1]]}, ${value[0] + 1} months later: ${percent(value[2])}`,
                }),
                grid: {
                  left: 8,
                  right: 8,
                  top: 4,
                  bottom: 24,
                  outerBoundsMode: "same",
                  outerBoundsContain: "axisLabel",
                },
                xAxis: {
                  type: "category",
                  data: Array.from({ length: last }, (_, at) => String(at + 1)),
                  name: "months later",
                  nameLocation: "middle",
                  nameGap: 24,
                  ...axis(colors),
                },
                yAxis: { type: "category", inverse: true, data: months, ...axis(colors) },
                visualMap: {
                  show: false,
                  min: 0,
                  max: Math.max(0.01, ...cells.map((c) => c.retention)),
                  inRange: { color: [colors.surface, colors.tint] },
                },
                series: [
                  {
                    type: "heatmap",
                    data: cells.map((c) => [c.offset - 1, row.get(c.cohort) ?? 0, c.retention]),
                    label: {
                      show: true,
                      fontSize: 10,
                      color: colors.text,
                      formatter: ({ value }) => percent((value as number[])[2] ?? 0, 0),
                    },
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
