// A customer's segment, with its strategy and reasons.
import { Badge, Card } from "../../components/layout";
import { Answer } from "../../components/states";
import { useCall } from "../../data/api";
import { count, days, enumLabel, money, sentence } from "../../format";
import {
  Lifecycle,
  SegmentationService,
} from "../../gen/shopkeeper/segmentation/v1/segmentation_pb";

export function Segment({ id }: { id: string }) {
  const answer = useCall(SegmentationService.method.getCustomerSegment, { customerId: id });
  return (
    <Card title="Segment" span={5}>
      <Answer query={answer}>
        {({ customerSegment: s }) =>
          s && (
            <>
              <p class="tags">
                <Badge tone="plain">{s.segmentName}</Badge>
                <Badge tone="plain">RFM: {s.rfmCell}</Badge>
                <Badge tone="plain">{enumLabel(Lifecycle[s.lifecycle])}</Badge>
              </p>
              <dl class="pairs">
                <dt>Last order</dt>
                <dd>{days(s.rfm?.recencyDays ?? 0)} before the as-of day</dd>
                <dt>Orders</dt>
                <dd>{count(s.rfm?.frequency ?? 0)}</dd>
                <dt>Spend</dt>
                <dd>{money(s.rfm?.monetary ?? 0)}</dd>
                {s.expectedSpend !== undefined && (
                  <>
                    <dt>Expected in 90 days</dt>
                    <dd>{money(s.expectedSpend)}</dd>
                  </>
                )}
              </dl>
              <p class="strategy">{s.strategy}</p>
              {s.reasons.length > 0 && (
                <ul class="reasons below">
                  {s.reasons.map((reason) => (
                    <li key={reason}>{sentence(reason)}</li>
                  ))}
                </ul>
              )}
            </>
          )
        }
      </Answer>
    </Card>
  );
}
