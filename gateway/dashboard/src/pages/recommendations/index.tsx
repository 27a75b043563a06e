// Recommendations for a customer or a basket, and products that belong to a product.
import { ProductFilter } from "../../components/filters";
import { Choice, NumberFilter, TextFilter } from "../../components/inputs";
import { Page } from "../../components/layout";
import { filter, setFilters } from "../../url";
import { ForBasket } from "./for-basket";
import { ForCustomer } from "./for-customer";
import { ForProduct } from "./for-product";

export default function Recommendations() {
  const by = filter("by", "customer");
  return (
    <Page
      title="Recommendations"
      lead="Products that a customer will probably buy next, products similar to a product, and products bought in the same order."
      filters={
        <>
          <Choice
            name="by"
            label="For"
            fallback="customer"
            options={[
              ["customer", "A customer"],
              ["basket", "A basket"],
              ["product", "A product"],
            ]}
          />
          {by === "customer" && (
            <TextFilter name="customer" label="Customer" placeholder="Customer id" />
          )}
          {by === "basket" && (
            <ProductFilter name="add" label="Add to the basket" placeholder="Code or description" />
          )}
          {by === "product" ? (
            <>
              <ProductFilter name="product" label="Product" placeholder="Code or description" />
              <NumberFilter
                name="confidence"
                label="Confidence at least"
                fallback={0}
                min={0}
                max={100}
                unit="%"
              />
              <NumberFilter name="lift" label="Lift at least" fallback={0} min={0} max={1000} />
            </>
          ) : (
            <label class="check">
              <input
                type="checkbox"
                checked={filter("new") === "1"}
                onChange={(event) =>
                  setFilters({ new: event.currentTarget.checked ? "1" : undefined })
                }
              />
              New products only
            </label>
          )}
        </>
      }
    >
      <div class="cards">
        {by === "product" ? <ForProduct /> : by === "basket" ? <ForBasket /> : <ForCustomer />}
      </div>
    </Page>
  );
}
