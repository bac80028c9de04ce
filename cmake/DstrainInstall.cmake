include(GNUInstallDirs)
if(TARGET dstrain)
  install(TARGETS dstrain RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY examples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/dstrain/examples USE_SOURCE_PERMISSIONS)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(format_sources "")
file(GLOB_RECURSE format_sources include/*.h runtime/*.[ch] parallel/*.[ch] checkpoint/*.[ch] launch/*.[ch]
     tests/*.[ch])
add_custom_target(format COMMAND clang-format -i ${format_sources} VERBATIM)
