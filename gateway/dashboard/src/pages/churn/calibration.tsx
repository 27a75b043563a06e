// The calibration of churn probabilities.
import { axis, Chart, type Palette, tooltip } from "../../components/chart";
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import type { Column } from "../../components/table";
import { useCall } from "../../data/api";
import { count, percent } from "../../format";
import {
  ChurnService,
  type GetChurnCalibrationResponse_CalibrationBin,
} from "../../gen/shopkeeper/churn/v1/churn_pb";

const CALIBRATION_COLUMNS: Column<GetChurnCalibrationResponse_CalibrationBin>[] = [
  { header: "Predicted from", value: (b) => b.lower, format: (v) => percent(v, 0) },
  { header: "Predicted on average", value: (b) => b.predicted, format: percent },
  { header: "Observed", value: (b) => b.observed, format: percent },
  { header: "Customers", value: (b) => Number(b.customers), format: count },
];

export function Calibration() {
  const answer = useCall(ChurnService.method.getChurnCalibration, {});
  return (
    <Card
      title="Does a chance of 70 % mean 70 %?"
      note="Predictions made 90 days before the as-of day against what happened. On the dashed line both agree. Larger points: more customers."
      span={6}
    >
      <Answer
        query={answer}
        isEmpty={(a) => a.bins.length === 0}
        emptyText="This version was published without an evaluation."
      >
        {({ bins }) => (
          <Chart
            label="Predicted chance against the share that stopped buying"
            rows={bins}
            columns={CALIBRATION_COLUMNS}
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
                  return `predicted ${percent(bin.predicted)}\nobserved ${percent(bin.observed)}\n${count(bin.customers)} customers`;
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
                axisLabel: percentLabel(colors),
              },
              yAxis: {
                type: "value",
                min: 0,
                max: 1,
                name: "observed",
                ...axis(colors),
                axisLabel: percentLabel(colors),
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

const percentLabel = (colors: Palette) => ({
  color: colors.muted,
  formatter: (v: number) => percent(v, 0),
});
