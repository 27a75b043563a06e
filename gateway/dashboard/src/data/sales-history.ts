// Daily sales, measured as the forecast model measures them: units for a product; for the shop and
// for a country the amount paid before returns, with postage and fees. Revenue of the insights
// service excludes postage and fees, so these are added from an export of the lines.
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { isoDate } from "../format";
import { Level } from "../gen/shopkeeper/forecast/v1/forecast_pb";
import {
  ExportFormat,
  Frequency,
  InsightsService,
  LineKind,
} from "../gen/shopkeeper/insights/v1/insights_pb";
import { call, callAllPages, transport } from "./api";

export interface DailySales {
  day: string;
  value: number;
}

const midnight = (day: string) => timestampFromDate(new Date(`${day}T00:00:00Z`));

/**
 * Sales of each day from `first`, or from the shop's first day, up to but without `last`; empty if
 * the data end earlier.
 */
export async function dailySales(
  level: Level,
  key: string,
  first: string,
  last: string,
): Promise<DailySales[]> {
  const range = {
    countries: level === Level.COUNTRY ? [key] : [],
    startTime: midnight(first),
    endTime: midnight(last),
  };
  const stockCodes = level === Level.PRODUCT ? [key] : [];
  const [trend, services] = await Promise.all([
    callAllPages(
      (pageToken) =>
        call(InsightsService.method.listSalesTrend, {
          ...range,
          stockCodes,
          frequency: Frequency.DAILY,
          pageSize: 1000,
          pageToken,
        }),
      (a) => a.periods,
    ),
    level === Level.PRODUCT ? undefined : servicesByDay(range),
  ]);
  if (isoDate(trend.first.model?.asOf) < last) return [];
  return trend.items.map(({ periodStart, sales }) => {
    const day = isoDate(periodStart);
    return {
      day,
      value: services
        ? (sales?.grossRevenue ?? 0) + (services.get(day) ?? 0)
        : Number(sales?.items ?? 0n),
    };
  });
}

/**
 * The end of a line of the CSV export: quantity, time, price, customer, country, kind, duplicate,
 * total.
 */
const LINE = /,(-?\d+),(\d{4}-\d\d-\d\d) [^,]*,(-?[\d.]+),.*,(-?[\d.]+)$/;

async function servicesByDay(range: { countries: string[] }): Promise<Map<string, number>> {
  const lines = createClient(InsightsService, transport).exportTransactions({
    ...range,
    kinds: [LineKind.SERVICE],
    format: ExportFormat.CSV,
  });
  const decoder = new TextDecoder();
  let text = "";
  for await (const { data } of lines) text += decoder.decode(data, { stream: true });
  const days = new Map<string, number>();
  for (const line of text.split("\r\n")) {
    const [, quantity, day, , total] = LINE.exec(line) ?? [];
    if (day && Number(quantity) > 0 && Number(total) > 0)
      days.set(day, (days.get(day) ?? 0) + Number(total));
  }
  return days;
}
