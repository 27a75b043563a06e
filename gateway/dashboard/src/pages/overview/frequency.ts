// The lengths of a period, by their value in the address.
import { Frequency } from "../../gen/shopkeeper/insights/v1/insights_pb";

export const FREQUENCIES: Record<string, Frequency> = {
  day: Frequency.DAILY,
  week: Frequency.WEEKLY,
  month: Frequency.MONTHLY,
  year: Frequency.YEARLY,
};
