// The frame around every page: navigation, theme, and the dialog for an API key.
import { Code, ConnectError } from "@connectrpc/connect";
import {
  ChartLine,
  Contact,
  Gauge,
  LayoutDashboard,
  ListChecks,
  LogOut,
  Menu,
  Moon,
  Package,
  Server,
  ShoppingBasket,
  Sun,
  TriangleAlert,
  UserMinus,
  Users,
} from "lucide-preact";
import type { ComponentChildren } from "preact";
import { lazy, Suspense } from "preact/compat";
import { useEffect, useErrorBoundary, useRef, useState } from "preact/hooks";
import { Page } from "./components/layout";
import { Empty, Loading, Problem } from "./components/states";
import { queryClient } from "./data/api";
import { apiKey, keyRequested, theme, toggleTheme } from "./session";
import { href, route } from "./url";

// Each page is a chunk of its own, loaded when it is first opened.
const PAGES = {
  overview: {
    title: "Overview",
    icon: LayoutDashboard,
    page: lazy(() => import("./pages/overview")),
  },
  actions: { title: "To do today", icon: ListChecks, page: lazy(() => import("./pages/actions")) },
  segments: { title: "Segments", icon: Users, page: lazy(() => import("./pages/segments")) },
  forecast: { title: "Forecast", icon: ChartLine, page: lazy(() => import("./pages/forecast")) },
  recommendations: {
    title: "Recommendations",
    icon: ShoppingBasket,
    page: lazy(() => import("./pages/recommendations")),
  },
  churn: { title: "Churn", icon: UserMinus, page: lazy(() => import("./pages/churn")) },
  anomalies: {
    title: "Anomalies",
    icon: TriangleAlert,
    page: lazy(() => import("./pages/anomalies")),
  },
  customer: { title: "Customer", icon: Contact, page: lazy(() => import("./pages/customer")) },
  models: { title: "Models", icon: Package, page: lazy(() => import("./pages/models")) },
  system: { title: "System", icon: Server, page: lazy(() => import("./pages/system")) },
};

export function App() {
  const [menu, setMenu] = useState(false);
  const mainRef = useRef<HTMLElement>(null);
  const isFirstRef = useRef(true);
  const name = route.value.page;
  const current = Object.entries(PAGES).find(([key]) => key === name)?.[1];
  useEffect(() => {
    setMenu(false);
    // Keyboard and screen reader continue in the new page.
    if (isFirstRef.current) isFirstRef.current = false;
    else {
      scrollTo(0, 0);
      mainRef.current?.focus();
    }
  }, [name]);
  const Current = current?.page;
  const dark = theme() === "dark";
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          mainRef.current?.focus();
        }}
      >
        Skip to the page
      </a>
      <aside class="side">
        <div class="brand">
          <a href={href("overview")}>
            <Gauge aria-hidden="true" /> Shopkeeper
          </a>
          <button
            type="button"
            class="icon"
            onClick={toggleTheme}
            aria-label={dark ? "Light theme" : "Dark theme"}
          >
            {dark ? <Sun aria-hidden="true" /> : <Moon aria-hidden="true" />}
          </button>
          {apiKey.value && (
            <button type="button" class="icon" onClick={forgetKey} aria-label="Forget the key">
              <LogOut aria-hidden="true" />
            </button>
          )}
          <button
            type="button"
            class="icon menu"
            aria-expanded={menu}
            aria-controls="pages"
            onClick={() => setMenu(!menu)}
            aria-label="Pages"
          >
            <Menu aria-hidden="true" />
          </button>
        </div>
        <nav id="pages" aria-label="Pages" class={menu ? "open" : undefined}>
          <ul>
            {Object.entries(PAGES).map(([key, { title, icon: Icon }]) => (
              <li key={key}>
                <a href={href(key)} aria-current={key === name ? "page" : undefined}>
                  <Icon aria-hidden="true" /> {title}
                </a>
              </li>
            ))}
          </ul>
        </nav>
      </aside>
      <main id="main" ref={mainRef} tabIndex={-1}>
        {Current ? (
          <ErrorBoundary key={name}>
            <Suspense fallback={<Loading />}>
              <Current />
            </Suspense>
          </ErrorBoundary>
        ) : (
          <Page title="No such page" lead="The address names a page that does not exist.">
            <Empty>
              Go to the <a href={href("overview")}>overview</a>.
            </Empty>
          </Page>
        )}
      </main>
      {keyRequested.value && <KeyDialog />}
    </>
  );
}

/** Catches an error of a page, so that navigation and the other pages keep working. */
function ErrorBoundary({ children }: { children: ComponentChildren }) {
  const [error, reset] = useErrorBoundary((thrown) => console.error(thrown));
  return error ? (
    <Problem
      error={new ConnectError("This page could not be shown.", Code.Internal)}
      retry={reset}
    />
  ) : (
    <>{children}</>
  );
}

function forgetKey() {
  apiKey.value = "";
  queryClient.clear();
  location.reload();
}

function KeyDialog() {
  const dialogRef = useRef<HTMLDialogElement>(null);
  const refused = apiKey.value !== "";
  useEffect(() => dialogRef.current?.showModal(), []);
  return (
    <dialog
      ref={dialogRef}
      aria-labelledby="key-title"
      onCancel={() => (keyRequested.value = false)}
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const key = new FormData(event.currentTarget).get("key");
          apiKey.value = typeof key === "string" ? key.trim() : "";
          keyRequested.value = false;
          void queryClient.resetQueries();
        }}
      >
        <h2 id="key-title">API key</h2>
        <p>{refused ? "The server does not know this key." : "This shop requires an API key."}</p>
        <label>
          Key
          <input name="key" type="password" autoComplete="current-password" required />
        </label>
        <p class="quiet">The key is kept until you close this tab.</p>
        <button type="submit" class="primary">
          Continue
        </button>
      </form>
    </dialog>
  );
}
