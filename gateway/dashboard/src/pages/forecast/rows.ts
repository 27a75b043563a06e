// Rows of the chart and table: sales and forecast by period.
import type { DailySales } from "../../data/sales-history";
import { isoDate } from "../../format";
import type { ForecastPoint } from "../../gen/shopkeeper/forecast/v1/forecast_pb";
import { type Begin, daysBetween } from "./periods";

export interface Row {
  from: string;
  /**
   * Days that the row covers, fewer than `daysInPeriod` if the forecast begins within a week or
   * month.
   */
  days: number;
  daysInPeriod: number;
  actual?: number;
  mean?: number;
  median?: number;
  low?: number;
  high?: number;
}

export const isWholePeriod = (row: Row) => row.days === row.daysInPeriod;

export const total = (rows: { value?: number }[]) =>
  rows.reduce((all, { value = 0 }) => all + value, 0);

/**
 * Rows of a forecast, whose quantiles are the low end of the interval, the median, and the high
 * end.
 */
export function forecastRows(points: ForecastPoint[], begin: Begin): Row[] {
  return points.map((p) => {
    const from = isoDate(p.periodStart);
    const end = begin(from, 1);
    const [low, median, high] = p.quantiles.map((q) => q.value);
    return {
      from,
      days: daysBetween(from, end),
      daysInPeriod: daysBetween(begin(from), end),
      mean: p.mean,
      low,
      median,
      high,
    };
  });
}

/** Daily sales summed by period. */
export function salesRows(sold: DailySales[], begin: Begin): Row[] {
  return [...Map.groupBy(sold, (s) => begin(s.day))].map(([from, days]) => ({
    from,
    days: days.length,
    daysInPeriod: daysBetween(from, begin(from, 1)),
    actual: total(days),
  }));
}
