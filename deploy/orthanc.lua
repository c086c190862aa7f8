-- Orthanc ("LuaScripts"): send each new CT series to the node that DicomModalities calls ldct.
-- Derived series carry our mark in their description and are not sent again.
function OnStableSeries(id, tags, metadata)
   local description = tags["SeriesDescription"] or ""
   if tags["Modality"] == "CT" and not string.find(description, "[ldct_jax", 1, true) then
      local job = '{"Resources": ["' .. id .. '"], "Synchronous": false}'
      RestApiPost("/modalities/ldct/store", job)
   end
end
