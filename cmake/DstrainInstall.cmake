include(GNUInstallDirs)
# The program looks for device plugins beside itself. `programs` is what install needs, without the tests.
set(installed dstrain)
if(TARGET dstrain_cuda)
  list(APPEND installed dstrain_cuda)
endif()
add_custom_target(programs DEPENDS ${installed})
install(TARGETS ${installed} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR})
# Configurations alone: the scripts build and run what lies in the source tree.
install(DIRECTORY examples/ DESTINATION ${CMAKE_INSTALL_DATADIR}/dstrain/examples FILES_MATCHING PATTERN "*.ini")
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# For who changes the sources.
add_custom_target(format COMMAND ${CMAKE_SOURCE_DIR}/tests/check_format.sh --fix VERBATIM)
add_custom_target(tidy COMMAND ${CMAKE_SOURCE_DIR}/tests/tidy.sh ${CMAKE_BINARY_DIR} VERBATIM)
