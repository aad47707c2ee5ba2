-- The columns of LiteLLM's tables that reconcile may read, in the schema where the proxy keeps them.
-- \set schema public
SELECT table_name, column_name
FROM information_schema.columns
WHERE table_schema = :'schema'
  AND table_name IN (
    'LiteLLM_SpendLogs', 'LiteLLM_SpendLogs_legacy',
    'LiteLLM_DailyUserSpend', 'LiteLLM_DailyTeamSpend', 'LiteLLM_DailyEndUserSpend', 'LiteLLM_DailyOrganizationSpend'
  );
