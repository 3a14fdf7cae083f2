// Headlamp without its top bar and its server, for tests: its own loader of plugins, sidebar, router, store and themes, as
// they are in the plugin kit. The whole application cannot be had as a dependency.
// First: its modules import each other in circles, which only work out from here.
import '@kinvolk/headlamp-plugin/lib/plugin';
import defaultAppThemes from '@kinvolk/headlamp-plugin/lib/components/App/defaultAppThemes';
import RouteSwitcher from '@kinvolk/headlamp-plugin/lib/components/App/RouteSwitcher';
import Sidebar from '@kinvolk/headlamp-plugin/lib/components/Sidebar';
import { queryClient } from '@kinvolk/headlamp-plugin/lib/lib/queryClient';
import { setStore } from '@kinvolk/headlamp-plugin/lib/lib/router/createRouteURL';
import { createMuiTheme, getThemeName } from '@kinvolk/headlamp-plugin/lib/lib/themes';
import { fetchAndExecutePlugins } from '@kinvolk/headlamp-plugin/lib/plugin';
import { setConfig } from '@kinvolk/headlamp-plugin/lib/redux/configSlice';
import store from '@kinvolk/headlamp-plugin/lib/redux/stores/store';
import { Box, CssBaseline, ThemeProvider } from '@mui/material';
import { QueryClientProvider } from '@tanstack/react-query';
import { SnackbarProvider } from 'notistack';
import { createRoot } from 'react-dom/client';
import { Provider } from 'react-redux';
import { BrowserRouter } from 'react-router-dom';

const CLUSTER = { name: 'main', auth_type: '', meta_data: {} };

function Host() {
  const name = getThemeName();
  const theme = defaultAppThemes.find(one => one.name === name) ?? defaultAppThemes[0];
  return (
    <Provider store={store}>
      <ThemeProvider theme={createMuiTheme(theme)}>
        <CssBaseline />
        <QueryClientProvider client={queryClient}>
          <SnackbarProvider>
            <BrowserRouter>
              <Box sx={{ display: 'flex' }}>
                <Sidebar />
                <Box component="main" sx={{ flexGrow: 1, minWidth: 0, padding: 2 }}>
                  <RouteSwitcher requiresToken={() => false} />
                </Box>
              </Box>
            </BrowserRouter>
          </SnackbarProvider>
        </QueryClientProvider>
      </ThemeProvider>
    </Provider>
  );
}

setStore(store);
store.dispatch(setConfig({ clusters: { main: CLUSTER } }));
const incompatible: string[] = [];
await fetchAndExecutePlugins(
  [],
  () => {},
  plugins => incompatible.push(...Object.keys(plugins))
);
if (incompatible.length > 0) console.error(`not compatible: ${incompatible.join(', ')}`);
createRoot(document.getElementById('root')!).render(<Host />);
