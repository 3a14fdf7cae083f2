import { SimpleTable } from '@kinvolk/headlamp-plugin/lib/CommonComponents';
import { Typography } from '@mui/material';
import { CONFIGURATION, NAMESPACE, useGates } from '../data';
import { GateRow } from '../model/gates';
import { isKnown, Page, Section } from '../parts/layout';
import { useFilter } from '../parts/tables';
import { Label, NOTHING } from '../parts/values';

function Switch({ on }: { on: boolean | null }) {
  if (on === null) return <>{NOTHING}</>;
  return <Label status={on ? 'success' : ''}>{on ? 'On' : 'Off'}</Label>;
}

export function Gates() {
  const { data, problems, loading } = useGates();
  const [field, rows] = useFilter('Filter by name', data, row => [row.name]);
  return (
    <Page title="Feature gates" problems={problems} loading={loading}>
      <Section>
        <Typography sx={{ marginBottom: 2 }}>
          What controller and agents are configured for (ConfigMap {NAMESPACE}/{CONFIGURATION}). A
          gate that is on can still have a part that does nothing in this version:{' '}
          <code>antctl get featuregates</code> in a component&apos;s container tells what works.
        </Typography>
        {isKnown(problems, data) && (
          <>
            {field}
            <SimpleTable
              data={rows}
              emptyMessage="No gate is configured."
              columns={[
                { label: 'Gate', datum: 'name', gridTemplate: '2fr' },
                {
                  label: 'Controller',
                  getter: (row: GateRow) => <Switch on={row.controller} />,
                  gridTemplate: '1fr',
                },
                {
                  label: 'Agents',
                  getter: (row: GateRow) => <Switch on={row.agent} />,
                  gridTemplate: '1fr',
                },
              ]}
            />
          </>
        )}
      </Section>
    </Page>
  );
}
