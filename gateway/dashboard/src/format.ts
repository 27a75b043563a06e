// How figures are written: the reader's locale, one definition each.
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";

/** ISO 4217 code of the shop's currency, as the gateway has told the page; without one amounts have no unit. */
const currency = document.documentElement.dataset.currency;

const amount = (value: number, options: Intl.NumberFormatOptions) =>
  value.toLocaleString(undefined, {
    ...(currency && { style: "currency", currency, currencyDisplay: "narrowSymbol" }),
    ...options,
  });
/** What one piece costs. */
export const price = (value: number) =>
  amount(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
/** An amount of money; whole from 100 on, and where it is none. */
export const money = (value: number) =>
  value !== 0 && Math.abs(value) < 99.5
    ? price(value)
    : amount(value, { minimumFractionDigits: 0, maximumFractionDigits: 0 });
/** An amount on an axis: 1.2K. */
export const shortMoney = (value: number) =>
  amount(value, { notation: "compact", minimumFractionDigits: 0, maximumFractionDigits: 1 });
export const count = (value: number | bigint) =>
  value.toLocaleString(undefined, { maximumFractionDigits: 0 });
export const shortCount = (value: number) =>
  value.toLocaleString(undefined, { notation: "compact", maximumFractionDigits: 1 });
export const decimal = (value: number, digits = 2) =>
  value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const percent = (value: number, digits = 1) =>
  value.toLocaleString(undefined, {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
/** A change against before: +3.4 %. */
export const change = (value: number) =>
  value.toLocaleString(undefined, {
    style: "percent",
    minimumFractionDigits: 1,
    maximumFractionDigits: 1,
    signDisplay: "exceptZero",
  });
/** Text of the API as a sentence begins. */
export const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);
export const days = (value: number) =>
  `${count(value)} ${Math.round(value) === 1 ? "day" : "days"}`;
export const bytes = (value: number | bigint) =>
  Number(value) >= 1e6
    ? (Number(value) / 1e6).toLocaleString(undefined, {
        style: "unit",
        unit: "megabyte",
        maximumFractionDigits: 1,
      })
    : (Number(value) / 1e3).toLocaleString(undefined, {
        style: "unit",
        unit: "kilobyte",
        maximumFractionDigits: 0,
      });
export const milliseconds = (value: number) =>
  value.toLocaleString(undefined, {
    style: "unit",
    unit: "millisecond",
    minimumSignificantDigits: 2,
    maximumSignificantDigits: 2,
  });

// The shop's days are UTC days, whatever the reader's clock says.
const written = (date: Date, options: Intl.DateTimeFormatOptions) =>
  date.toLocaleString(undefined, { timeZone: "UTC", ...options });
export const dayOf = (time?: Timestamp) =>
  time ? timestampDate(time).toISOString().slice(0, 10) : "";
/** Day and time of day as files have it: 2011-10-05 14:50:00. */
export const timeOf = (time?: Timestamp) =>
  time ? timestampDate(time).toISOString().slice(0, 19).replace("T", " ") : "";
export const day = (time?: Timestamp) =>
  time ? written(timestampDate(time), { year: "numeric", month: "short", day: "numeric" }) : "–";
export const isoDay = (iso: string) =>
  iso
    ? written(new Date(`${iso}T00:00:00Z`), { year: "numeric", month: "short", day: "numeric" })
    : "–";
export const moment = (time?: Timestamp) =>
  time ? written(timestampDate(time), { dateStyle: "medium", timeStyle: "short" }) : "–";

/** An enum's name for people: `RISK_LEVEL_HIGH` is High. */
export const enumWord = (name: string) =>
  name.charAt(0).toUpperCase() + name.slice(1).toLowerCase().replaceAll("_", " ");
/** A figure's name for people: `wape_shop_daily` is wape shop daily. */
export const words = (name: string) => name.replaceAll("_", " ");
