// The build lies in the package, under names that stay: app.js is ours and small, solid.js is NiiVue and changes with its version.
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vite'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

export default defineConfig({
  base: './',
  resolve: { alias: { zarrita: here('src/no_zarr.ts') } }, // NiiVue can read Zarr, which nobody sends here
  build: {
    outDir: here('../src/medical_sam2/server/static'),
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1200,
    rollupOptions: {
      input: { app: here('index.html'), login: here('login.html') },
      output: { entryFileNames: '[name].js', chunkFileNames: '[name].js', assetFileNames: '[name][extname]' },
    },
  },
})
