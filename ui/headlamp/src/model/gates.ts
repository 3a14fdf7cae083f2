// Feature gates.
import { compare } from './rows';

/** A gate as a component reports it. */
export interface GateReport {
  component: string;
  name: string;
  status: string;
  version: string;
}

/** A gate with what both components say of it; null where a component has no such gate. */
export interface GateRow {
  name: string;
  stage: string;
  controller: boolean | null;
  agent: boolean | null;
}

/** One row per gate, by name. */
export function gateRows(reports: GateReport[]): GateRow[] {
  const rows = new Map<string, GateRow>();
  for (const { component, name, status, version } of reports) {
    if (component !== 'controller' && component !== 'agent') continue;
    const row = rows.get(name) ?? { name, stage: version, controller: null, agent: null };
    row[component] = status === 'Enabled';
    rows.set(name, row);
  }
  return [...rows.values()].sort((a, b) => compare(a.name, b.name));
}

/**
 * The gates in a component's configuration file (YAML), as reports. Only the block `featureGates` is read, whose lines are
 * names with true or false; what is commented out, or anything else, is passed over.
 */
export function configuredGates(component: 'controller' | 'agent', file: string): GateReport[] {
  const reports: GateReport[] = [];
  let inside = false;
  for (const line of file.split('\n')) {
    if (/^\S/.test(line) && !line.startsWith('#')) inside = /^featureGates:/.test(line);
    const gate = inside && /^\s+["']?([A-Za-z0-9]+)["']?:\s*(true|false)\s*(#.*)?$/.exec(line);
    if (!gate) continue;
    reports.push({
      component,
      name: gate[1],
      status: gate[2] === 'true' ? 'Enabled' : 'Disabled',
      version: '',
    });
  }
  return reports;
}
