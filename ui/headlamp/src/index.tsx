// Antrea in Headlamp: an entry of the sidebar with its pages, and sections on pages of Headlamp's own.
import {
  registerDetailsViewSection,
  registerRoute,
  registerSidebarEntry,
} from '@kinvolk/headlamp-plugin/lib';
import { ComponentType } from 'react';
import { Agent, Agents, Controller } from './pages/components';
import { Explain } from './pages/explain';
import { Gates } from './pages/gates';
import { Installation } from './pages/installation';
import { NewTrace } from './pages/newTrace';
import { Overview } from './pages/overview';
import { Policies, Policy } from './pages/policies';
import { Trace, Traces } from './pages/traces';
import { ROUTES } from './routes';
import { DetailsSection } from './sections';

const PARENT = 'antrea-root';

type Key = keyof typeof ROUTES;

const ENTRIES: Key[] = [
  'overview',
  'controller',
  'agents',
  'policies',
  'traces',
  'explain',
  'gates',
  'installation',
];

/** Pages, each with the entry of the sidebar that is marked while it is shown. */
const PAGES: [page: Key, entry: Key, component: ComponentType][] = [
  ['overview', 'overview', Overview],
  ['controller', 'controller', Controller],
  ['agents', 'agents', Agents],
  ['agent', 'agents', Agent],
  ['policies', 'policies', Policies],
  ['policy', 'policies', Policy],
  ['traces', 'traces', Traces],
  ['trace', 'traces', Trace],
  ['newTrace', 'traces', NewTrace],
  ['explain', 'explain', Explain],
  ['gates', 'gates', Gates],
  ['installation', 'installation', Installation],
];

registerSidebarEntry({
  parent: null,
  name: PARENT,
  label: 'Antrea',
  url: ROUTES.overview.path,
  icon: 'mdi:lan',
});
for (const key of ENTRIES) {
  const { name, path, label } = ROUTES[key];
  registerSidebarEntry({ parent: PARENT, name, label, url: path });
}
for (const [key, entry, Component] of PAGES) {
  const { name, path } = ROUTES[key];
  registerRoute({
    path,
    name,
    exact: true,
    sidebar: ROUTES[entry].name,
    component: () => <Component />,
  });
}
registerDetailsViewSection(DetailsSection);
