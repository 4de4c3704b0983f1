import psutil, threading
from tests.support.database import psql
from SureshotSDK._client import PortfolioClient
def test_it(database_url, router):
    one = router(database_url)
    def trade(n):
        with PortfolioClient(one.address) as c:
            for i in range(150):
                c.buy_all("IncredibleLeverage_SPXL","SPXL",100.0); list(c.list_orders(strategy_name="IncredibleLeverage_SPXL")); c.audit() if i%10==0 else None; c.sell_all("IncredibleLeverage_SPXL","SPXL",100.0)
                c.list_portfolios()
    ts=[threading.Thread(target=trade,args=(n,)) for n in range(12)]
    [t.start() for t in ts]; [t.join() for t in ts]
    pids=psql(database_url,"SELECT pid FROM pg_stat_activity WHERE datname=current_database()").split()
    for p in pids:
        try:
            m=psutil.Process(int(p)).memory_full_info(); print("MEM", p, m.uss>>20, m.rss>>20, m.pss>>20)
        except Exception as e: print("MEM", e)
