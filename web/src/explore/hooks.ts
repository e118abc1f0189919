/** What components know of the page around them. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { themeNow, type Theme } from "./colours";

/** The colour theme, in a component that is drawn again when it changes. */
export function useTheme(): Theme {
  const [theme, setTheme] = useState(themeNow());
  useEffect(() => {
    const observer = new MutationObserver(() => setTheme(themeNow()));
    observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => observer.disconnect();
  }, []);
  return theme;
}

const watched = new WeakMap<Element, (isVisible: boolean) => void>();
const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) watched.get(target)?.(true);
  },
  { rootMargin: "200px" },
);

/** An element, and whether it was near enough to be seen so far. */
export function useVisible<T extends Element>(): [{ current: T | null }, boolean] {
  const element = useRef<T>(null);
  const [isVisible, setVisible] = useState(false);
  useLayoutEffect(() => {
    const target = element.current!;
    watched.set(target, setVisible);
    observer.observe(target);
    return () => observer.unobserve(target);
  }, []);
  return [element, isVisible];
}

/** An element, and its width in CSS pixels; 0 before it is known. */
export function useWidth<T extends Element>(): [{ current: T | null }, number] {
  const element = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const target = element.current!;
    setWidth(target.clientWidth);
    const sizes = new ResizeObserver(() => setWidth(target.clientWidth));
    sizes.observe(target);
    return () => sizes.disconnect();
  }, []);
  return [element, width];
}

/** Scroll to an element; also after two frames, when what is above it has measured its width and has its height. */
export function scrollTo(element: Element): void {
  element.scrollIntoView();
  requestAnimationFrame(() => requestAnimationFrame(() => element.isConnected && element.scrollIntoView()));
}
