// Numbers, amounts and dates as text in the reader's locale.
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";

/**
 * ISO 4217 code of the shop's currency, which the gateway writes into the page; without one amounts
 * have no unit.
 */
const currency = document.documentElement.dataset.currency;

const amount = (value: number, options: Intl.NumberFormatOptions) =>
  value.toLocaleString(undefined, {
    ...(currency && { style: "currency", currency, currencyDisplay: "narrowSymbol" }),
    ...options,
  });

/** The price of a unit. */
export const price = (value: number) =>
  amount(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

/** An amount of money; without decimals if it is 0, or 99.50 and above. */
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

/** A relative change: +3.4 %. */
export const percentChange = (value: number) =>
  value.toLocaleString(undefined, {
    style: "percent",
    minimumFractionDigits: 1,
    maximumFractionDigits: 1,
    signDisplay: "exceptZero",
  });

/** Text of the API with a capital first letter. */
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

// The shop's days are UTC days, in every time zone.
const formatDate = (date: Date, options: Intl.DateTimeFormatOptions) =>
  date.toLocaleString(undefined, { timeZone: "UTC", ...options });

export const isoDate = (time?: Timestamp) =>
  time ? timestampDate(time).toISOString().slice(0, 10) : "";

/** Date and time of day for downloads: 2011-10-05 14:50:00. */
export const isoDateTime = (time?: Timestamp) =>
  time ? timestampDate(time).toISOString().slice(0, 19).replace("T", " ") : "";

export const day = (time?: Timestamp) =>
  time ? formatDate(timestampDate(time), { year: "numeric", month: "short", day: "numeric" }) : "–";

export const formatIsoDate = (iso: string) =>
  iso
    ? formatDate(new Date(`${iso}T00:00:00Z`), { year: "numeric", month: "short", day: "numeric" })
    : "–";

export const dateTime = (time?: Timestamp) =>
  time ? formatDate(timestampDate(time), { dateStyle: "medium", timeStyle: "short" }) : "–";

/** An enum value's name as a label: `BOUGHT_BEFORE` becomes "Bought before". */
export const enumLabel = (name: string) =>
  name.charAt(0).toUpperCase() + name.slice(1).toLowerCase().replaceAll("_", " ");

/** A metric's name as a label: `wape_shop_daily` becomes "wape shop daily". */
export const spacedName = (name: string) => name.replaceAll("_", " ");
