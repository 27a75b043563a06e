// Periods of a forecast. Days are ISO dates: 2011-10-05.
import { Frequency } from "../../gen/shopkeeper/forecast/v1/forecast_pb";

const DAY_MS = 86_400_000;

export function addDays(date: string, days = 0) {
  return new Date(Date.parse(date) + days * DAY_MS).toISOString().slice(0, 10);
}

export const daysBetween = (from: string, to: string) =>
  Math.round((Date.parse(to) - Date.parse(from)) / DAY_MS);

/**
 * Lengths of a period. `horizon`: periods ahead by default, `maxHorizon` at most; `past`: periods
 * shown before the forecast; `begin`: the first day of the period that contains a day, or of the
 * period `later` ones after it.
 */
export const PERIODS = {
  day: {
    frequency: Frequency.DAILY,
    horizon: 28,
    maxHorizon: 366,
    past: 120,
    unit: "days",
    begin: addDays,
  },
  week: {
    frequency: Frequency.WEEKLY,
    horizon: 8,
    maxHorizon: 53,
    past: 60,
    unit: "weeks",
    // Weeks begin on Monday.
    begin: (date: string, later = 0) =>
      addDays(date, 7 * later - ((new Date(date).getUTCDay() + 6) % 7)),
  },
  month: {
    frequency: Frequency.MONTHLY,
    horizon: 3,
    maxHorizon: 12,
    past: 36,
    unit: "months",
    begin(date: string, later = 0) {
      const day = new Date(date);
      return new Date(Date.UTC(day.getUTCFullYear(), day.getUTCMonth() + later))
        .toISOString()
        .slice(0, 10);
    },
  },
};

export type Period = keyof typeof PERIODS;

export type Begin = (date: string, later?: number) => string;
