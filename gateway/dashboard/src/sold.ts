// What was sold day by day, counted as the forecast model counts it: pieces of a product; of the shop and of a country what was
// paid, before returns, with postage and fees. Figures of the shop have no postage, so it comes from the lines themselves.
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { ask, askAll, transport } from "./api";
import { dayOf } from "./format";
import { Level } from "./gen/shopkeeper/forecast/v1/forecast_pb";
import {
  ExportFormat,
  Frequency,
  InsightsService,
  LineKind,
} from "./gen/shopkeeper/insights/v1/insights_pb";

export interface SoldDay {
  day: string;
  value: number;
}

const midnight = (day: string) => timestampFromDate(new Date(`${day}T00:00:00Z`));

/** Days from the first or the shop's first on, before the last; none where the figures do not reach that far. */
export async function soldDays(
  level: Level,
  key: string,
  first: string,
  last: string,
): Promise<SoldDay[]> {
  const range = {
    countries: level === Level.COUNTRY ? [key] : [],
    startTime: midnight(first),
    endTime: midnight(last),
  };
  const stockCodes = level === Level.PRODUCT ? [key] : [];
  const [trend, services] = await Promise.all([
    askAll(
      (pageToken) =>
        ask(InsightsService.method.listSalesTrend, {
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
  if (dayOf(trend.first.model?.asOf) < last) return [];
  return trend.items.map(({ periodStart, sales }) => {
    const day = dayOf(periodStart);
    return {
      day,
      value: services
        ? (sales?.grossRevenue ?? 0) + (services.get(day) ?? 0)
        : Number(sales?.items ?? 0n),
    };
  });
}

/** The end of a line of the export: quantity, time, price, customer, country, kind, duplicate, total. */
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
