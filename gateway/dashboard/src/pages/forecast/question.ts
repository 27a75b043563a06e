// The forecast that the filters ask for.
import { Level } from "../../gen/shopkeeper/forecast/v1/forecast_pb";
import { filter, numberFilter } from "../../url";
import { type Period, PERIODS } from "./periods";

const LEVELS: Record<string, Level> = {
  shop: Level.TOTAL,
  country: Level.COUNTRY,
  product: Level.PRODUCT,
};

/**
 * The series, period and prediction interval of the filters; not `complete` until a country or
 * product is chosen.
 */
export function useQuestion() {
  const level = LEVELS[filter("level", "shop")] ?? Level.TOTAL;
  const key =
    level === Level.COUNTRY ? filter("country") : level === Level.PRODUCT ? filter("product") : "";
  const period = PERIODS[filter("every", "day") as Period] ?? PERIODS.day;
  const horizon = Math.round(numberFilter("horizon", period.horizon, 1, period.maxHorizon));
  const interval = numberFilter("interval", 80, 1, 99) / 100;
  return { level, key, period, horizon, interval, complete: level === Level.TOTAL || key !== "" };
}
