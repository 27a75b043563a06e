// Answers that several pages ask for.
import { timestampDate, timestampFromDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import { keepPreviousData, useQuery } from "@tanstack/preact-query";
import { ask, askAll, skipToken, useCall } from "./api";
import { AnomalyService, Measure } from "./gen/shopkeeper/anomaly/v1/anomaly_pb";
import { ChurnService, RiskLevel, type ChurnRisk } from "./gen/shopkeeper/churn/v1/churn_pb";
import { InsightsService } from "./gen/shopkeeper/insights/v1/insights_pb";
import {
  SegmentationService,
  type CustomerSegment,
  type Lifecycle,
} from "./gen/shopkeeper/segmentation/v1/segmentation_pb";
import { filter } from "./url";

const DAY = 86_400_000;

/** The country and days that all figures are about, as requests to insights take them. */
export function useRange() {
  const country = filter("country");
  const from = validDay(filter("from"));
  const to = validDay(filter("to"));
  return {
    countries: country ? [country] : [],
    startTime: from && timestampFromDate(from),
    // The last day counts as a whole.
    endTime: to && timestampFromDate(new Date(to.getTime() + DAY)),
  };
}
function validDay(text: string): Date | undefined {
  const date = new Date(`${text}T00:00:00Z`);
  return Number.isNaN(date.getTime()) ? undefined : date;
}
/** As many days again before a range, to compare with. */
export function rangeBefore(start: Timestamp, end: Timestamp) {
  const from = timestampDate(start).getTime();
  const length = timestampDate(end).getTime() - from;
  return { startTime: timestampFromDate(new Date(from - length)), endTime: start };
}

export const useCountries = () => useCall(InsightsService.method.listCountries, { pageSize: 1000 });

/** Customers and their risk, those with most value at risk first; at most 5,000 of them. */
export const useRisks = (country: string) =>
  useQuery({
    queryKey: ["risks", country],
    queryFn: () => risks(country),
  });
export function risks(country: string) {
  return askAll(
    (pageToken) =>
      ask(ChurnService.method.listAtRiskCustomers, {
        pageSize: 1000,
        pageToken,
        country,
        minRiskLevel: RiskLevel.LOW,
      }),
    (answer) => answer.churnRisks,
  );
}

/** A customer with segment and risk. */
export interface Customer {
  segment: CustomerSegment;
  risk?: ChurnRisk;
}
/** Customers of a segment, by spend; of a country as far as the churn model knows them. */
export const useCustomers = (country: string, segmentId: number, lifecycle: Lifecycle) =>
  useQuery({
    queryKey: ["customers", country, segmentId, lifecycle],
    queryFn: async () => {
      const [segments, known] = await Promise.all([
        askAll(
          (pageToken) =>
            ask(SegmentationService.method.listCustomerSegments, {
              pageSize: 1000,
              pageToken,
              segmentId,
              lifecycle,
            }),
          (answer) => answer.customerSegments,
        ),
        // Without the churn model there is still a list, unless a country is asked for, which it alone knows.
        risks(country).catch((error: unknown) => {
          if (country) throw error;
        }),
      ]);
      const byId = new Map(known?.items.map((risk) => [risk.customerId, risk]));
      const customers = segments.items.map((segment): Customer => ({
        segment,
        risk: byId.get(segment.customerId),
      }));
      return {
        customers: country ? customers.filter((c) => c.risk) : customers,
        total: segments.total,
      };
    },
    placeholderData: keepPreviousData,
  });

/** What a product is called; empty while that is not known. */
export function useProductName(stockCode: string): string {
  const found = useCall(
    InsightsService.method.searchProducts,
    stockCode ? { query: stockCode, pageSize: 1 } : skipToken,
  );
  const [product] = found.data?.products ?? [];
  return product?.stockCode === stockCode ? product.description : "";
}

/** What one piece of a product usually costs: the anomaly model's median of its price. */
export async function usualPrice(stockCode: string): Promise<number | undefined> {
  const { score } = await ask(AnomalyService.method.scoreTransaction, {
    transaction: { stockCode, quantity: 1n, unitPrice: 1 },
  });
  return score?.deviations.find((d) => d.measure === Measure.UNIT_PRICE && d.baseline === "product")
    ?.expected;
}
