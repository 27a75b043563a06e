// Proposes actions of each kind: the customer or product, the reason, and the expected value with
// its formula.
import { count, decimal, money, percent, price, sentence } from "../format";
import { AnomalyService, Measure, Severity } from "../gen/shopkeeper/anomaly/v1/anomaly_pb";
import { type ChurnRisk, ChurnService, RiskLevel } from "../gen/shopkeeper/churn/v1/churn_pb";
import { ForecastService, Frequency, Level } from "../gen/shopkeeper/forecast/v1/forecast_pb";
import { InsightsService, ProductOrder } from "../gen/shopkeeper/insights/v1/insights_pb";
import { RecommendationService } from "../gen/shopkeeper/recommendation/v1/recommendation_pb";
import {
  type CustomerSegment,
  SegmentationService,
} from "../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { call } from "./api";
import { fetchRisks, medianPrice } from "./queries";

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
  /**
   * Stable from day to day, so that an action marked as done stays done until a new model version
   * proposes it again.
   */
  key: string;
  customer?: string;
  product?: string;
  what: string;
  why: string;
  /** Shop currency; undefined if no price is known or the action earns nothing. */
  value?: number;
  formula: string;
}

/** Shares in 0..=1 of the customers or orders that the reader expects to respond. */
export interface Rates {
  winBack: number;
  crossSell: number;
  bundle: number;
}

/** Customers, products and lines looked at, of unitPrice kind: a day's work. */
const MAX_ACTIONS = 20;

/** Best-selling products for which a bundle is looked up. */
const BUNDLE_PRODUCTS = 12;

/** Best-selling products whose forecast is compared with their sales. */
const STOCK_PRODUCTS = 40;

/** A rate as the reader has typed it, with a decimal only if it has one. */
const ratePercent = (rate: number) =>
  percent(rate, Number.isInteger(Math.round(rate * 1000) / 10) ? 0 : 1);

type Collect = (country: string, rates: Rates) => Promise<Action[]>;

async function segmentsOf(risks: ChurnRisk[]): Promise<Map<string, CustomerSegment>> {
  if (risks.length === 0) return new Map();
  const { results } = await call(SegmentationService.method.batchGetCustomerSegments, {
    customerIds: risks.map((r) => r.customerId),
  });
  return new Map(
    results.flatMap(({ result }) =>
      result.case === "customerSegment" ? [[result.value.customerId, result.value]] : [],
    ),
  );
}

/** The two best recommendations for a customer, as text. */
async function offerText(customerId: string, newOnly: boolean): Promise<string> {
  const { recommendations } = await call(RecommendationService.method.recommendProducts, {
    customerId,
    limit: 2,
    newOnly,
  });
  return recommendations
    .map((r) => `${r.description || r.stockCode} (${r.stockCode})`)
    .join(" and ");
}

const winBack: Collect = async (country, rates) => {
  const { churnRisks, model } = await call(ChurnService.method.listAtRiskCustomers, {
    pageSize: MAX_ACTIONS,
    country,
    minRiskLevel: RiskLevel.MEDIUM,
  });
  const segments = await segmentsOf(churnRisks);
  return Promise.all(
    churnRisks.map(async (risk): Promise<Action> => {
      const segment = segments.get(risk.customerId);
      const raisingReasons = risk.reasons.filter((r) => r.contribution > 0).slice(0, 2);
      return {
        kind: "winBack",
        key: `winBack/${risk.customerId}/${model?.version}`,
        customer: risk.customerId,
        what: `Write or call, and offer ${await offerText(risk.customerId, false)}${segment ? `. ${segment.segmentName}: ${segment.strategy}` : ""}`,
        why: [
          `${percent(risk.probability, 0)} chance to stop buying`,
          ...raisingReasons.map((r) => r.text),
        ].join("; "),
        value: (risk.valueAtRisk ?? 0) * rates.winBack,
        formula: `${percent(risk.probability, 0)} × ${money(risk.annualValue ?? 0)} a year × ${ratePercent(rates.winBack)} won back`,
      };
    }),
  );
};

const crossSell: Collect = async (country, rates) => {
  const { items } = await fetchRisks(country);
  const loyal = items
    .filter((r) => r.riskLevel === RiskLevel.LOW)
    .toSorted((a, b) => (b.annualValue ?? 0) - (a.annualValue ?? 0))
    .slice(0, MAX_ACTIONS);
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
          what: `Show ${await offerText(risk.customerId, true)}, which they have not bought before`,
          why: `${segment.segmentName}; ${money(segment.expectedSpend)} expected in 90 days; similar customers buy these`,
          value: segment.expectedSpend * rates.crossSell,
          formula: `${money(segment.expectedSpend)} expected × ${ratePercent(rates.crossSell)} more`,
        },
      ];
    }),
  );
  return actions.flat();
};

/**
 * A product and its units sold and not returned in the 28 days before the forecast, also as a share
 * of all units sold.
 */
interface Sold {
  key: string;
  name: string;
  units: number;
  keptShare: number;
}

const DAY_SECS = 86_400;

/**
 * The best-selling products of the last 28 days by units sold minus units returned: a cancelled
 * order is no demand.
 */
async function topProducts(limit: number): Promise<Sold[]> {
  const { model } = await call(ForecastService.method.listSeries, {
    level: Level.PRODUCT,
    pageSize: 1,
  });
  // A forecast begins at the midnight before the model's as-of time.
  const end = BigInt(Math.floor(Number(model?.asOf?.seconds ?? 0n) / DAY_SECS) * DAY_SECS);
  const { products } = await call(InsightsService.method.listTopProducts, {
    startTime: { seconds: end - BigInt(28 * DAY_SECS) },
    endTime: { seconds: end },
    order: ProductOrder.QUANTITY,
    pageSize: 2 * limit,
  });
  return products
    .map(({ stockCode, description, items, returnedItems }): Sold => {
      const units = Math.max(0, Number(items - returnedItems));
      return {
        key: stockCode,
        name: description || stockCode,
        units,
        keptShare: units / Math.max(1, Number(items)),
      };
    })
    .filter(({ units }) => units > 0)
    .toSorted((a, b) => b.units - a.units)
    .slice(0, limit);
}

/** Products whose forecast is at least 25 % above, or below, their sales of the last 28 days. */
async function stockActions(above: boolean): Promise<Action[]> {
  const kind = above ? "stock" : "orderLess";
  const actions = await Promise.all(
    (await topProducts(STOCK_PRODUCTS)).map(async ({ key, name, units, keptShare }) => {
      // 28 days, the period that `units` covers.
      const { points, model } = await call(ForecastService.method.forecastSales, {
        level: Level.PRODUCT,
        key,
        frequency: Frequency.DAILY,
        horizon: 28,
      });
      // The forecast counts units before returns, so it is scaled by the share that was not
      // returned.
      const expected = keptShare * points.reduce((all, p) => all + p.mean, 0);
      const more = expected - units;
      if (more > 0 !== above || Math.abs(more) < 0.25 * units) return [];
      const unitPrice = await medianPrice(key);
      const counted = `${count(Math.abs(more))} units ${above ? "more" : "fewer"}`;
      const worth = unitPrice && Math.abs(more) * unitPrice;
      const action: Action = {
        kind,
        key: `${kind}/${key}/${model?.version}`,
        product: key,
        what: above
          ? `Have ${count(expected)} units of ${name} for the next 28 days`
          : `Order ${name} with care: ${count(expected)} units will do for the next 28 days`,
        why: `The forecast is ${percent(Math.abs(more / units), 0)} ${above ? "above" : "below"} the ${count(units)} units sold and not returned in the last 28 days`,
        // Stock that is not ordered saves money, but earns none.
        value: above ? worth : undefined,
        formula: !unitPrice
          ? `${counted}; no usual price known`
          : above
            ? `${counted} × ${price(unitPrice)} each`
            : `${counted}: ${money(Math.abs(more) * unitPrice)} at the usual price, which is not earned`,
      };
      return [{ action, worth: worth ?? 0 }];
    }),
  );
  return actions
    .flat()
    .toSorted((a, b) => b.worth - a.worth)
    .slice(0, MAX_ACTIONS)
    .map(({ action }) => action);
}

const stock: Collect = () => stockActions(true);

const orderLess: Collect = () => stockActions(false);

const bundle: Collect = async (_country, rates) => {
  const actions = await Promise.all(
    (await topProducts(BUNDLE_PRODUCTS)).map(async ({ key, name }): Promise<Action[]> => {
      const { rules, model } = await call(RecommendationService.method.listBoughtTogether, {
        stockCode: key,
        limit: 1,
        minLift: 1.5,
      });
      const [rule] = rules;
      if (!rule || rule.confidence <= 0) return [];
      const ordersWithout = Number(rule.orders) / rule.confidence - Number(rule.orders);
      const unitPrice = await medianPrice(rule.stockCode);
      return [
        {
          kind: "bundle",
          key: `bundle/${key}/${rule.stockCode}/${model?.version}`,
          product: key,
          what: `Put ${rule.description} (${rule.stockCode}) beside ${name}, or sell them as a bundle`,
          why: `${percent(rule.confidence, 0)} of orders with the first product contain the second: ${decimal(rule.lift, 1)} times as often as other orders do`,
          value: unitPrice && ordersWithout * rates.bundle * unitPrice,
          formula: unitPrice
            ? `${count(ordersWithout)} orders without it × ${ratePercent(rates.bundle)} add it × ${price(unitPrice)}`
            : `${count(ordersWithout)} orders without it; no usual price known`,
        },
      ];
    }),
  );
  return actions.flat();
};

const check: Collect = async (country) => {
  const { anomalies } = await call(AnomalyService.method.listAnomalies, {
    pageSize: 100,
    minSeverity: Severity.HIGH,
  });
  return anomalies
    .filter(({ transaction }) => !country || transaction?.country === country)
    .flatMap(({ transaction: t, score }): Action[] => {
      if (!t || !score) return [];
      const total = Number(t.quantity) * t.unitPrice;
      // The line's total if its most unusual measure had its expected value.
      const deviation = score.deviations.find((d) => d.measure !== Measure.UNSPECIFIED);
      const expectedTotal = deviation ? (total * deviation.expected) / deviation.value : total;
      return [
        {
          kind: "check",
          key: `check/${t.invoice}/${t.lineId}/${t.stockCode}`,
          customer: t.customerId || undefined,
          product: t.stockCode,
          what: `Check ${t.stockCode} of invoice ${t.invoice} before it is shipped or paid`,
          why: sentence(score.reason),
          value: Math.abs(total - expectedTotal),
          formula: `${money(total)} booked against ${money(expectedTotal)} as usual`,
        },
      ];
    })
    .slice(0, MAX_ACTIONS);
};

export const collect: Record<Kind, Collect> = {
  winBack,
  crossSell,
  stock,
  orderLess,
  bundle,
  check,
};
