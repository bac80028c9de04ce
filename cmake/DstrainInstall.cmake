include(GNUInstallDirs)
# The program looks for device plugins beside itself.
install(TARGETS dstrain RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY examples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/dstrain/examples USE_SOURCE_PERMISSIONS)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# For who changes the sources.
add_custom_target(format COMMAND ${CMAKE_SOURCE_DIR}/tests/check_format.sh --fix VERBATIM)
add_custom_target(tidy COMMAND ${CMAKE_SOURCE_DIR}/tests/tidy.sh ${CMAKE_BINARY_DIR} VERBATIM)
