// The customers that match the filters.
import { Card, CustomerLink } from "../../components/layout";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { type Customer, useCustomers } from "../../data/queries";
import { count, enumLabel, money, percent } from "../../format";
import { Lifecycle } from "../../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { filter, numberFilter } from "../../url";

/** Customers that match the filters. */
export const useFilteredCustomers = () =>
  useCustomers(
    filter("country"),
    numberFilter("segment", 0, 0, 1000),
    Lifecycle[filter("lifecycle") as keyof typeof Lifecycle] ?? Lifecycle.UNSPECIFIED,
  );

export const CUSTOMER_COLUMNS: Column<Customer>[] = [
  {
    header: "Customer",
    value: (c) => c.segment.customerId,
    render: (c) => <CustomerLink id={c.segment.customerId} />,
  },
  { header: "Segment", value: (c) => c.segment.segmentName },
  { header: "RFM cell", value: (c) => c.segment.rfmCell },
  { header: "Stage", value: (c) => enumLabel(Lifecycle[c.segment.lifecycle]) },
  { header: "Days since order", value: (c) => c.segment.rfm?.recencyDays, format: count },
  { header: "Orders", value: (c) => c.segment.rfm?.frequency, format: count },
  { header: "Spend", value: (c) => c.segment.rfm?.monetary, format: money },
  { header: "Expected in 90 days", value: (c) => c.segment.expectedSpend, format: money },
  { header: "Churn risk", value: (c) => c.risk?.probability, format: percent },
];

export function SegmentCustomers() {
  const chosen = useFilteredCustomers();
  return (
    <Card
      title="Customers"
      note={
        !filter("country") && chosen.data && chosen.data.total > chosen.data.customers.length
          ? `The ${count(chosen.data.customers.length)} of ${count(chosen.data.total)} customers with most spend`
          : "All that match the filters, in descending order of spend"
      }
    >
      <Answer query={chosen} isEmpty={(a) => a.customers.length === 0}>
        {({ customers }) => (
          <Table
            label="Customers of the segment"
            rows={customers}
            columns={CUSTOMER_COLUMNS}
            download="customers"
          />
        )}
      </Answer>
    </Card>
  );
}
