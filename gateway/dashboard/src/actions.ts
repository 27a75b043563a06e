// The action list, kind by kind: whom or what it is about, why, and what it may bring.
import { ask } from "./api";
import { count, decimal, money, percent, price, sentence } from "./format";
import { AnomalyService, Measure, Severity } from "./gen/shopkeeper/anomaly/v1/anomaly_pb";
import { ChurnService, RiskLevel, type ChurnRisk } from "./gen/shopkeeper/churn/v1/churn_pb";
import { ForecastService, Frequency, Level } from "./gen/shopkeeper/forecast/v1/forecast_pb";
import { InsightsService, ProductOrder } from "./gen/shopkeeper/insights/v1/insights_pb";
import { RecommendationService } from "./gen/shopkeeper/recommendation/v1/recommendation_pb";
import {
  SegmentationService,
  type CustomerSegment,
} from "./gen/shopkeeper/segmentation/v1/segmentation_pb";
import { risks, usualPrice } from "./shop";

export const KINDS = {
  winBack: { name: "Win back", tone: "bad" },
  crossSell: { name: "Offer", tone: "good" },
  stock: { name: "Stock", tone: "weak" },
  orderLess: { name: "Order less", tone: "plain" },
  bundle: { name: "Bundle", tone: "plain" },
  check: { name: "Check", tone: "bad" },
} as const;
export type Kind = keyof typeof KINDS;

export interface Action {
  kind: Kind;
  /** The same tomorrow, so that what is done stays done until a model says something new. */
  key: string;
  customer?: string;
  product?: string;
  what: string;
  why: string;
  /** Shop currency; undefined where there is no price to count with, or nothing is earned. */
  value?: number;
  formula: string;
}

/** Parts of 1 that the reader expects to go along. */
export interface Rates {
  winBack: number;
  crossSell: number;
  bundle: number;
}

/** Customers, products and lines looked at, of each kind: a day's work. */
const LINES = 20;
const PRODUCTS = 12;
const STOCKED = 40;

/** A part as the reader has set it. */
const part = (rate: number) =>
  percent(rate, Number.isInteger(Math.round(rate * 1000) / 10) ? 0 : 1);

type Collect = (country: string, rates: Rates) => Promise<Action[]>;

async function segmentsOf(those: ChurnRisk[]): Promise<Map<string, CustomerSegment>> {
  if (those.length === 0) return new Map();
  const { results } = await ask(SegmentationService.method.batchGetCustomerSegments, {
    customerIds: those.map((r) => r.customerId),
  });
  return new Map(
    results.flatMap(({ result }) =>
      result.case === "customerSegment" ? [[result.value.customerId, result.value]] : [],
    ),
  );
}

/** What to offer somebody, in words. */
async function offer(customerId: string, newOnly: boolean): Promise<string> {
  const { recommendations } = await ask(RecommendationService.method.recommendProducts, {
    customerId,
    limit: 2,
    newOnly,
  });
  return recommendations
    .map((r) => `${r.description || r.stockCode} (${r.stockCode})`)
    .join(" and ");
}

const winBack: Collect = async (country, rates) => {
  const { churnRisks, model } = await ask(ChurnService.method.listAtRiskCustomers, {
    pageSize: LINES,
    country,
    minRiskLevel: RiskLevel.MEDIUM,
  });
  const segments = await segmentsOf(churnRisks);
  return Promise.all(
    churnRisks.map(async (risk): Promise<Action> => {
      const segment = segments.get(risk.customerId);
      const up = risk.reasons.filter((r) => r.contribution > 0).slice(0, 2);
      return {
        kind: "winBack",
        key: `winBack/${risk.customerId}/${model?.version}`,
        customer: risk.customerId,
        what: `Write or call, and offer ${await offer(risk.customerId, false)}${segment ? `. ${segment.segmentName}: ${segment.strategy}` : ""}`,
        why: [
          `${percent(risk.probability, 0)} chance to stop buying`,
          ...up.map((r) => r.text),
        ].join("; "),
        value: (risk.valueAtRisk ?? 0) * rates.winBack,
        formula: `${percent(risk.probability, 0)} × ${money(risk.annualValue ?? 0)} a year × ${part(rates.winBack)} won back`,
      };
    }),
  );
};

const crossSell: Collect = async (country, rates) => {
  const { items } = await risks(country);
  const loyal = items
    .filter((r) => r.riskLevel === RiskLevel.LOW)
    .toSorted((a, b) => (b.annualValue ?? 0) - (a.annualValue ?? 0))
    .slice(0, LINES);
  const segments = await segmentsOf(loyal);
  const actions = await Promise.all(
    loyal.map(async (risk): Promise<Action[]> => {
      const segment = segments.get(risk.customerId);
      if (segment?.expectedSpend === undefined) return [];
      return [
        {
          kind: "crossSell",
          key: `crossSell/${risk.customerId}/${segment.segmentId}`,
          customer: risk.customerId,
          what: `Show ${await offer(risk.customerId, true)}, which they have not bought before`,
          why: `${segment.segmentName}; ${money(segment.expectedSpend)} expected in 90 days; customers of a like taste buy these`,
          value: segment.expectedSpend * rates.crossSell,
          formula: `${money(segment.expectedSpend)} expected × ${part(rates.crossSell)} more`,
        },
      ];
    }),
  );
  return actions.flat();
};

/** A product and its pieces of the 28 days before the forecast: those that stayed sold, and which part of all sold that is. */
interface Sold {
  key: string;
  name: string;
  pieces: number;
  kept: number;
}
const DAY = 86_400;

/** What sells most now, by the pieces that were not taken back: an order that was cancelled says nothing about tomorrow. */
async function topProducts(most: number): Promise<Sold[]> {
  const { model } = await ask(ForecastService.method.listSeries, {
    level: Level.PRODUCT,
    pageSize: 1,
  });
  // Forecasts begin with a whole day.
  const end = BigInt(Math.floor(Number(model?.asOf?.seconds ?? 0n) / DAY) * DAY);
  const { products } = await ask(InsightsService.method.listTopProducts, {
    startTime: { seconds: end - BigInt(28 * DAY) },
    endTime: { seconds: end },
    order: ProductOrder.QUANTITY,
    pageSize: 2 * most,
  });
  return products
    .map(({ stockCode, description, items, returnedItems }): Sold => {
      const pieces = Math.max(0, Number(items - returnedItems));
      return {
        key: stockCode,
        name: description || stockCode,
        pieces,
        kept: pieces / Math.max(1, Number(items)),
      };
    })
    .filter(({ pieces }) => pieces > 0)
    .toSorted((a, b) => b.pieces - a.pieces)
    .slice(0, most);
}

/** Products that the forecast sees far above, or far below, what they sold lately. */
async function stocked(above: boolean): Promise<Action[]> {
  const kind = above ? "stock" : "orderLess";
  const actions = await Promise.all(
    (await topProducts(STOCKED)).map(async ({ key, name, pieces, kept }) => {
      // As many days as `pieces` are of.
      const { points, model } = await ask(ForecastService.method.forecastSales, {
        level: Level.PRODUCT,
        key,
        frequency: Frequency.DAILY,
        horizon: 28,
      });
      // The forecast is of all that will be sold; as large a part of it will be taken back.
      const expected = kept * points.reduce((all, p) => all + p.mean, 0);
      const more = expected - pieces;
      if (more > 0 !== above || Math.abs(more) < 0.25 * pieces) return [];
      const each = await usualPrice(key);
      const counted = `${count(Math.abs(more))} pieces ${above ? "more" : "fewer"}`;
      const worth = each && Math.abs(more) * each;
      const action: Action = {
        kind,
        key: `${kind}/${key}/${model?.version}`,
        product: key,
        what: above
          ? `Have ${count(expected)} pieces of ${name} for the next 28 days`
          : `Order ${name} with care: ${count(expected)} pieces will do for the next 28 days`,
        why: `The forecast is ${percent(Math.abs(more / pieces), 0)} ${above ? "above" : "below"} the ${count(pieces)} pieces that stayed sold in the last 28 days`,
        // What is not bought too much of is not earned.
        value: above ? worth : undefined,
        formula: !each
          ? `${counted}; no usual price known`
          : above
            ? `${counted} × ${price(each)} each`
            : `${counted}: ${money(Math.abs(more) * each)} at the usual price, which nobody earns`,
      };
      return [{ action, worth: worth ?? 0 }];
    }),
  );
  return actions
    .flat()
    .toSorted((a, b) => b.worth - a.worth)
    .slice(0, LINES)
    .map(({ action }) => action);
}

const stock: Collect = () => stocked(true);
const orderLess: Collect = () => stocked(false);

const bundle: Collect = async (_country, rates) => {
  const actions = await Promise.all(
    (await topProducts(PRODUCTS)).map(async ({ key, name }): Promise<Action[]> => {
      const { rules, model } = await ask(RecommendationService.method.listBoughtTogether, {
        stockCode: key,
        limit: 1,
        minLift: 1.5,
      });
      const [rule] = rules;
      if (!rule || rule.confidence <= 0) return [];
      const without = Number(rule.orders) / rule.confidence - Number(rule.orders);
      const each = await usualPrice(rule.stockCode);
      return [
        {
          kind: "bundle",
          key: `bundle/${key}/${rule.stockCode}/${model?.version}`,
          product: key,
          what: `Put ${rule.description} (${rule.stockCode}) beside ${name}, or sell them as a bundle`,
          why: `${percent(rule.confidence, 0)} of orders with the one hold the other: ${decimal(rule.lift, 1)} times as often as others do`,
          value: each && without * rates.bundle * each,
          formula: each
            ? `${count(without)} orders without it × ${part(rates.bundle)} take it up × ${price(each)}`
            : `${count(without)} orders without it; no usual price known`,
        },
      ];
    }),
  );
  return actions.flat();
};

const check: Collect = async (country) => {
  const { anomalies } = await ask(AnomalyService.method.listAnomalies, {
    pageSize: 100,
    minSeverity: Severity.HIGH,
  });
  return anomalies
    .filter(({ transaction }) => !country || transaction?.country === country)
    .flatMap(({ transaction: t, score }): Action[] => {
      if (!t || !score) return [];
      const total = Number(t.quantity) * t.unitPrice;
      // What the line would come to if what is off about it were as usual.
      const off = score.deviations.find((d) => d.measure !== Measure.UNSPECIFIED);
      const usual = off ? (total * off.expected) / off.value : total;
      return [
        {
          kind: "check",
          key: `check/${t.invoice}/${t.lineId}/${t.stockCode}`,
          customer: t.customerId || undefined,
          product: t.stockCode,
          what: `Check ${t.stockCode} of invoice ${t.invoice} before it is shipped or paid`,
          why: sentence(score.reason),
          value: Math.abs(total - usual),
          formula: `${money(total)} booked against ${money(usual)} as usual`,
        },
      ];
    })
    .slice(0, LINES);
};

export const collect: Record<Kind, Collect> = {
  winBack,
  crossSell,
  stock,
  orderLess,
  bundle,
  check,
};
